"""The five studies: a question, a sweep that answers it, and what is measured beyond the sweep. In toy or full form.

A study is a YAML file of tune_configs/studies/: a `question`, and for each form an `experiment`, a `space`, `compare` (pairs
of points that are tested on the same questions) and `collections` to evaluate on afterwards. What a study measures beyond
retrieval on the test split is in `study_probes`, what it makes of it in `study_findings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

import hybrid_ir
from hybrid_ir.config import Experiment, Section, load_experiment, parse_experiment, with_values
from hybrid_ir.tuning.search_space import Space, parse_space, point_label
from hybrid_ir.types import InputError

STUDIES = ("model_choice", "monolingual_degradation", "model_size", "mixing_ratio", "robustness")
LAREQA = ("xquad-r", "mlqa-r")
"""Collections that can stand in for a held-out test: queries and candidates in parallel languages."""
Form = Literal["toy", "full"]


class Benchmark(Section):
    """A benchmark that every trained encoder is evaluated on after the sweep: `hybrid-ir evaluate`'s arguments."""

    collection: str
    path: str
    split: str | None = None
    corpus: str | None = None
    languages: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Study:
    name: str
    form: Form
    question: str
    compare: tuple[tuple[str, str], ...]
    """Pairs of point labels."""
    experiment: Experiment
    space: Space
    collections: tuple[Benchmark, ...]


def load_study(name: str, form: Form, out: Path, overrides: Sequence[str] = ()) -> Study:
    """Read tune_configs/studies/NAME.yaml (or the file `name`). Its store stands in `out` unless it is a path elsewhere.

    Raises InputError for an unknown study, a missing key, or a comparison of points that the space does not have.
    """
    path = _find(name)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    known = {"question", "toy", "full"}
    if not isinstance(tree, dict) or set(tree) != known:
        found = ", ".join(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
        raise InputError(f"{path} must have the keys {', '.join(sorted(known))}, found {found}")
    part = tree[form]
    needed = {"experiment", "space", "compare"}
    if not isinstance(part, dict) or not needed <= set(part) <= needed | {"collections"}:
        raise InputError(f"{path}: {form} must have the keys {', '.join(sorted(needed))}, and may have collections")
    experiment = parse_experiment(part["experiment"], f"{path}, {form}")
    if experiment.store == "store":
        experiment = experiment.model_copy(update={"store": str(out / "store")})
    if overrides:
        values = {key: yaml.safe_load(text) for key, _, text in (each.partition("=") for each in overrides)}
        load_experiment(None, overrides)  # for its errors: it names the nearest key
        experiment = with_values(experiment, values)
    space = parse_space(part["space"], f"{path}, {form}")
    try:
        collections = tuple(Benchmark.model_validate(each) for each in part.get("collections", ()))
        pairs = tuple((str(a), str(b)) for a, b in part["compare"])
    except (ValidationError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: compare must hold pairs of points, collections {{collection, path}}: {error}"
        ) from None
    question = " ".join(str(tree["question"]).split())
    return Study(path.stem, form, question, pairs, experiment, space, collections)


def check_study(study: Study, points: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a comparison that names a point the sweep does not have, or a collection that is not there."""
    labels = {point_label(point) for point in points}
    for label in (label for pair in study.compare for label in pair):
        if label not in labels:
            raise InputError(f"{study.name}: compare names {label!r}; its points are {', '.join(sorted(labels))}")


def check_collections(study: Study) -> None:
    """Raise InputError, before hours of training, for a collection whose folder is not there."""
    for test in study.collections:
        for path in (test.path, test.corpus):
            if path is not None and not path.startswith("hub:") and not Path(path).exists():
                raise InputError(
                    f"{study.name}: no {test.collection} at {path}; fetch it, or change its path in the study"
                )


def _find(name: str) -> Path:
    for path in (Path(name), Path("tune_configs/studies") / f"{name}.yaml", _checkout() / f"{name}.yaml"):
        if path.is_file():
            return path
    raise InputError(f"no study {name!r}; there are {', '.join(STUDIES)}, or give a file (see tune_configs/studies)")


def _checkout() -> Path:
    return Path(hybrid_ir.__file__).parents[1] / "tune_configs" / "studies"

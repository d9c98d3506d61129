"""The five studies: a question and a sweep that answers it. In: a YAML file, such as those here. Out: a `Study`.

Such a file holds a `question`, and for each form that it has (toy, real, full) an `experiment`, a `space`, `compare`
(pairs of points that are tested on the same questions) and `collections` to evaluate on afterwards. What a study
measures beyond retrieval on the test split is in `probes`; what it makes of it is in `findings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from hybrid_ir.config import (
    Experiment,
    Section,
    load_experiment,
    parse_experiment,
    parse_overrides,
    read_mapping,
    with_values,
)
from hybrid_ir.tuning.points import point_label
from hybrid_ir.tuning.search_space import Space, parse_space
from hybrid_ir.types import InputError

FOLDER = Path(str(files("hybrid_ir.tuning.studies")))
STUDIES = tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))
Form = Literal["toy", "real", "full"]


class Benchmark(Section):
    """A benchmark that every trained encoder is evaluated on after the sweep: `hybrid-ir evaluate`'s arguments."""

    collection: str
    """Which: xquad-r, mlqa-r, miracl, tatoeba, mewsli-x or xcopa; store = the held-out split of a store."""
    path: str
    """Its folder; of miracl and xcopa, hub:OWNER/NAME too."""
    split: str | None = None
    """As upstream spells it; null = miracl's dev, the others' test."""
    corpus: str | None = None
    """Of miracl: folder or hub:OWNER/NAME of its corpora; null = they are at `path`."""
    languages: tuple[str, ...] | None = None
    """Languages to evaluate on; null = all that the collection has."""


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
    """Read the study `name` of STUDIES, or the file `name`. Its store is in `out` unless it is a path elsewhere.

    Raises InputError for an unknown study, a missing key, or a comparison of points that the space does not have.
    """
    path = _find(name)
    tree = read_mapping(path)
    forms = get_args(Form)
    if "question" not in tree or form not in tree or not set(tree) <= {"question", *forms}:
        found = ", ".join(map(str, tree)) or "none"
        allowed = ", ".join(forms)
        raise InputError(f"{path} must have the keys question and {form}, and no others but {allowed}; found {found}")
    part = tree[form]
    needed = {"experiment", "space", "compare"}
    if not isinstance(part, dict) or not needed <= set(part) <= needed | {"collections"}:
        raise InputError(f"{path}: {form} must have the keys {', '.join(sorted(needed))}, and may have collections")
    experiment = parse_experiment(part["experiment"], f"{path}, {form}")
    if experiment.store == "store":
        experiment = experiment.model_copy(update={"store": str(out / "store")})
    load_experiment(None, overrides)  # for its errors: it names the nearest key
    experiment = with_values(experiment, dict(parse_overrides(overrides)))
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
    """Raise InputError for a comparison that names a point that the sweep does not have."""
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
    for path in (Path(name), FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    raise InputError(f"no study {name!r}; there are {', '.join(STUDIES)}, or give a file (see {FOLDER})")

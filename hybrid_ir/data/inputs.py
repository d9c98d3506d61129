"""From the config's sources to what `prepare` reads: which reader, which candidates, which name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hybrid_ir.config import Experiment, Source
from hybrid_ir.data.atlas import facts as atlas
from hybrid_ir.data.prepare import Input, prepare
from hybrid_ir.data.sources import hub_sources, parallel_text, records, squad
from hybrid_ir.storage import fetch
from hybrid_ir.types import Group, InputError, Records


def inputs_for(configured: Sequence[Source]) -> list[Input]:
    """One `Input` a source, named after its kind (a second one of a kind gets a number)."""
    seen: Counter[str] = Counter()
    inputs = []
    for source in configured:
        kind: str = source.kind  # type: ignore[attr-defined]
        seen[kind] += 1
        inputs.append(_input(kind if seen[kind] == 1 else f"{kind}-{seen[kind]}", source))
    return inputs


def prepare_experiment(
    experiment: Experiment, progress: Callable[[str, int], None] = lambda what, n: None
) -> dict[str, Any]:
    """Write the store of an experiment, and return its manifest. Raises as `prepare` does."""
    section = experiment.prepare
    return prepare(
        inputs_for(section.sources),
        experiment.store,
        seed=experiment.seed,
        validation_fraction=section.validation_fraction,
        test_fraction=section.test_fraction,
        settings=section.model_dump(mode="json"),
        progress=progress,
    )


def _input(name: str, source: Any) -> Input:
    if getattr(source, "path", None) is not None:
        source = source.model_copy(update={"path": fetch(source.path)})
    common: dict[str, Any] = {"name": name, "use": source.use}
    match source.kind:
        case "atlas":
            return Input(**common, records=partial(_atlas, source.languages), subject_of=atlas.subject_of)
        case "lareqa":
            return Input(
                **common,
                records=partial(squad.read_lareqa, source.path, source.languages),
                collection=partial(squad.lareqa_collection, source.path, name, source.languages),
            )
        case "squad":
            return Input(**common, records=partial(_squad, source.files, source.exclude))
        case "ntrex":
            read = partial(parallel_text.read_ntrex, source.path, source.languages, source.pairing)
            return Input(**common, records=read)
        case "tatoeba":
            return Input(**common, records=partial(parallel_text.read_tatoeba, source.path, source.languages))
        case "mmarco":
            read = partial(hub_sources.read_mmarco, source.path, source.languages, limit=source.max_groups)
            return Input(**common, records=read)
        case "miracl":
            read = partial(hub_sources.read_miracl, source.path, source.languages, source.split, source.corpus_path)
            return Input(**common, records=read)
        case "mr_tydi":
            read = partial(hub_sources.read_mr_tydi, source.path, source.languages, source.split)
            return Input(**common, records=read)
        case "squadshifts":
            return Input(**common, records=partial(hub_sources.read_squadshifts, source.path, source.subsets))
        case "records":
            return Input(**common, records=partial(records.read_records, source.path))
    raise AssertionError(source.kind)


def _squad(files: dict[str, str], exclude: str | None) -> Records:
    return squad.read_squad(files, squad.squad_question_ids(exclude) if exclude else frozenset())


def _atlas(languages: Sequence[str] | None) -> Records:
    for language in languages or ():
        if language not in atlas.LANGUAGES:
            raise InputError(f"atlas has no {language!r}; it has {', '.join(atlas.LANGUAGES)}")
    keep = tuple(languages or atlas.LANGUAGES)
    for group in atlas.atlas_groups():
        yield Group(
            group.group_id,
            group.document,
            {x: group.queries[x] for x in keep},
            {x: group.passages[x] for x in keep},
        )

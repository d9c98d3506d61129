"""Which reader a configured source means.

In: the sections of `prepare.sources`. Out: an `Input` each, that `prepare` reads from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hybrid_ir.config import Source
from hybrid_ir.data.sources import atlas, lareqa, miracl, mmarco, mr_tydi, ntrex, records, squad, squadshifts, tatoeba
from hybrid_ir.data.splits import Split
from hybrid_ir.storage import fetch
from hybrid_ir.types import Collection, Records


@dataclass(frozen=True)
class Input:
    """One source. `collection` gives its own candidates (sentences that answer nothing included); without it the pool
    of a held-out split is the held-out passages, plus what `subject_of` finds: train passages about a held-out subject.
    """

    name: str
    records: Callable[[], Records]
    use: Split | None = None
    collection: Callable[[], Collection] | None = None
    subject_of: Callable[[str], str] | None = None


def inputs_for(configured: Sequence[Source]) -> list[Input]:
    """One `Input` a source, named after its kind (a second one of a kind gets a number)."""
    seen: Counter[str] = Counter()
    inputs = []
    for source in configured:
        kind: str = source.kind  # type: ignore[attr-defined]
        seen[kind] += 1
        inputs.append(_input(kind if seen[kind] == 1 else f"{kind}-{seen[kind]}", source))
    return inputs


def _input(name: str, source: Any) -> Input:
    if getattr(source, "path", None) is not None:
        source = source.model_copy(update={"path": fetch(source.path)})
    match source.kind:
        case "atlas":
            return Input(name, partial(atlas.read_atlas, source.languages), source.use, subject_of=atlas.subject_of)
        case "lareqa":
            collection = partial(lareqa.lareqa_collection, source.path, name, source.languages)
            return Input(name, partial(lareqa.read_lareqa, source.path, source.languages), source.use, collection)
        case "squad":
            read = partial(_read_squad, source.files, source.exclude)
        case "ntrex":
            read = partial(ntrex.read_ntrex, source.path, source.languages, source.pairing)
        case "tatoeba":
            read = partial(tatoeba.read_tatoeba, source.path, source.languages)
        case "mmarco":
            read = partial(mmarco.read_mmarco, source.path, source.languages, source.max_groups)
        case "miracl":
            read = partial(miracl.read_miracl, source.path, source.languages, source.split, source.corpus_path)
        case "mr_tydi":
            read = partial(mr_tydi.read_mr_tydi, source.path, source.languages, source.split)
        case "squadshifts":
            read = partial(squadshifts.read_squadshifts, source.path, source.subsets)
        case "records":
            read = partial(records.read_records, source.path)
        case _:
            raise AssertionError(source.kind)
    return Input(name, read, source.use)


def _read_squad(files: dict[str, str], exclude: str | None) -> Records:
    return squad.read_squad(files, squad.squad_question_ids(exclude) if exclude else frozenset())

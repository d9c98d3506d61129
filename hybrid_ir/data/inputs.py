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
from hybrid_ir.data.find_files import pinned
from hybrid_ir.data.sources import (
    atlas,
    lareqa,
    miracl,
    mmarco,
    mr_tydi,
    ntrex,
    records,
    squad,
    squadshifts,
    tatoeba,
)
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
    hub: tuple[str, ...] = ()
    """Data sets of the hub that it is read from, each with its commit: hub:OWNER/NAME@COMMIT."""
    own: bool = False
    """Rows that a user wrote: those of one id are one group, and groups that share a text are one document."""
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
    found = {key: _local(getattr(source, key)) for key in PATHS if hasattr(source, key)}
    source = source.model_copy(update=found)
    hub = tuple(sorted(path for path in found.values() if isinstance(path, str) and path.startswith("hub:")))
    make = partial(Input, name, use=source.use, hub=hub)
    match source.kind:
        case "atlas":
            return make(partial(atlas.read_atlas, source.languages), subject_of=atlas.subject_of)
        case "lareqa":
            collection = partial(lareqa.lareqa_collection, source.path, name, source.languages)
            return make(partial(lareqa.read_lareqa, source.path, source.languages), collection=collection)
        case "squad":
            return make(partial(_read_squad, source.files, source.exclude))
        case "ntrex":
            return make(partial(ntrex.read_ntrex, source.path, source.languages, source.pairing))
        case "tatoeba":
            return make(partial(tatoeba.read_tatoeba, source.path, source.languages))
        case "mmarco":
            return make(partial(mmarco.read_mmarco, source.path, source.languages, source.max_groups))
        case "miracl":
            corpus = source.corpus_path
            return make(partial(miracl.read_miracl, source.path, source.languages, source.split, corpus))
        case "mr_tydi":
            return make(partial(mr_tydi.read_mr_tydi, source.path, source.languages, source.split))
        case "squadshifts":
            return make(partial(squadshifts.read_squadshifts, source.path, source.subsets))
        case "records":
            return make(partial(records.read_records, source.path), own=True)
    raise AssertionError(source.kind)


PATHS = ("path", "corpus_path", "files", "exclude")
"""Fields of sources that name files: a path, a URI or a data set of the hub, or a mapping of such."""


def _local(value: Any) -> Any:
    """What a URI names, fetched; of a data set of the hub the commit that all its files are to be of."""
    if isinstance(value, dict):
        return {key: _local(path) for key, path in value.items()}
    return pinned(fetch(value)) if isinstance(value, str) else value


def _read_squad(files: dict[str, str], exclude: str | None) -> Records:
    return squad.read_squad(files, squad.squad_question_ids(exclude) if exclude else frozenset())

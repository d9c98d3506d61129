"""The queries and the pool of a held-out split.

In: its groups, and where every document went. Out: queries and candidates, with document and passage ids by source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hybrid_ir.data.groups import queries_of
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.shuffle import Scattered, groups_of
from hybrid_ir.data.splits import Split, hashed_order
from hybrid_ir.types import Candidate, Group, Query


def held_out_collection(
    inputs: Iterable[Input], groups: Sequence[Group], split: Split, split_of: Mapping[str, Split], scattered: Scattered
) -> tuple[list[Query], list[Candidate]]:
    """Candidates of one doc_id and language are one, which answers all its groups; the last text of them stands."""
    pool: dict[tuple[str, str], Candidate] = {}
    for source in inputs:
        own = [g for g in groups if g.group_id.startswith(f"{source.name}:")]
        for candidate in _candidates(source, own, split, split_of, scattered) if own else ():
            key = candidate.doc_id, candidate.language
            before = pool[key].group_ids if key in pool else ()
            pool[key] = candidate._replace(group_ids=tuple(dict.fromkeys((*before, *candidate.group_ids))))
    return queries_of(groups), sorted(pool.values(), key=lambda c: (c.language, hashed_order(0, "pool", c.doc_id)))


def _candidates(
    source: Input, own: Sequence[Group], split: Split, split_of: Mapping[str, Split], scattered: Scattered
) -> Iterator[Candidate]:
    """Passages of the source's held-out groups, its own candidates of their documents, and what is said elsewhere about
    their subjects."""
    for g in own:
        yield from _passages(source.name, g, (g.group_id,))
    for c in source.collection().candidates if source.collection else ():
        document = f"{source.name}:{c.document}"
        if split_of.get(document) == split:
            yield c._replace(doc_id=f"{source.name}:{c.doc_id}", group_ids=(), document=document)
    if subject_of := source.subject_of:
        subjects = {subject_of(g.group_id.partition(":")[2]) for g in own}
        for g in groups_of(scattered, source.name):
            if split_of[g.document] == "train" and subject_of(g.group_id.partition(":")[2]) in subjects:
                yield from _passages(source.name, g, ())


def _passages(source: str, group: Group, group_ids: tuple[str, ...]) -> Iterator[Candidate]:
    for language, passages in group.passages.items():
        for passage in passages:
            yield Candidate(f"{source}:{passage.doc_id}", group_ids, language, passage.text, group.document)

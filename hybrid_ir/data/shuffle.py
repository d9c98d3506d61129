"""The two passes over all groups: scatter them over buckets on disk, then sort and read one bucket after the other.
Between them the rows of the user's own groups are joined, and their documents.

In: the records of the inputs. Out: every group once, in an order that depends on its id and the seed alone, and a tally
of the records. Memory holds one bucket, the ids of the documents, and some 30 bytes a text of the user's own.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from hybrid_ir.data.groups import shorten
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.own_records import DocumentLinks, fingerprint, join_parts
from hybrid_ir.data.splits import Signature, Split, hashed_order, signature_of
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import Group, InputError, Rejected

BUCKETS = 64
FACTS_TO_HOLD_OUT = 4
"""Facts that a source with subjects must state of one before any of them is held out."""


class Tally:
    """What became of each source's records: counts, and ROOT/rejected/SOURCE.jsonl with those that were left out."""

    def __init__(self, root: str, inputs: Sequence[Input]) -> None:
        self.sources: dict[str, dict[str, Any]] = {
            source.name: {"groups": 0, "rejected": {}, "use": source.use, "hub": list(source.hub)} for source in inputs
        }
        self._filesystem, self._inner = open_filesystem(root)
        self._files: dict[str, Any] = {}

    def reject(self, source: str, record: Rejected) -> None:
        reasons = self.sources[source]["rejected"]
        reasons[record.reason] = reasons.get(record.reason, 0) + 1
        if source not in self._files:
            self._filesystem.create_dir(f"{self._inner}/rejected", recursive=True)
            self._files[source] = self._filesystem.open_output_stream(f"{self._inner}/rejected/{source}.jsonl")
        line = json.dumps(record._asdict(), ensure_ascii=False)
        # A byte that was not UTF-8 came as a lone surrogate; its backslash escape is JSON.
        self._files[source].write((line + "\n").encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


@dataclass
class Scattered:
    """Groups in buckets on disk, and what the first pass saw. A document of split None goes where its hash says."""

    scratch: Path
    tally: Tally
    documents: dict[str, Split | None] = field(default_factory=dict)
    signatures: Counter[Signature] = field(default_factory=Counter)
    document_of: dict[str, str] = field(default_factory=dict)
    """Document of the user's own rows, where it is another than they name, since it shares a text with theirs."""

    def count(self, group: Group, use: Split | None) -> None:
        self.documents.setdefault(group.document, use)
        self.signatures[signature_of(group)] += 1


def scatter(inputs: Sequence[Input], scratch: Path, root: str, progress: Callable[[str, int], None]) -> Scattered:
    """Write each group to a bucket by a hash of its id. Raises InputError for a source without a good group."""
    scattered = Scattered(scratch, Tally(root, inputs))
    buckets = [_bucket(scratch, i).open("wb") for i in range(BUCKETS)]
    subjects: dict[str, str] = {}
    try:
        for source in inputs:
            counts = scattered.tally.sources[source.name]
            for record in source.records():
                if isinstance(record, Rejected):
                    scattered.tally.reject(source.name, record)
                    continue
                group_id, document = f"{source.name}:{record.group_id}", f"{source.name}:{record.document}"
                group = replace(record, group_id=group_id, document=document)
                if not source.own:
                    scattered.count(group, source.use)
                if source.subject_of:
                    subjects[document] = f"{source.name}:{source.subject_of(record.group_id)}"
                pickle.dump((source.name, group), buckets[_bucket_of(group_id)])
                counts["groups"] += 1
                if counts["groups"] % 1000 == 0:
                    progress(source.name, counts["groups"])
            progress(source.name, counts["groups"])
            if not counts["groups"]:
                rejected = Counter(counts["rejected"])
                reasons = "; ".join(f"{n} x {reason}" for reason, n in rejected.most_common(3))
                found = f"all {rejected.total()} records were rejected: {reasons}" if rejected else "it is empty"
                raise InputError(f"source {source.name!r} has no good group; {found}")
    finally:
        for bucket in buckets:
            bucket.close()
    _settle(scattered, {source.name: source.use for source in inputs if source.own})
    # A subject that little else is said about stays in training: held out, its names would be seen for the first time.
    facts = Counter(subjects.values())
    for document, subject in subjects.items():
        if facts[subject] < FACTS_TO_HOLD_OUT:
            scattered.documents[document] = scattered.documents[document] or "train"
    return scattered


def _settle(scattered: Scattered, own: Mapping[str, Split | None]) -> None:
    """Join the rows of the user's own groups, bucket by bucket, and the documents that share a text."""
    links = DocumentLinks()
    for number in range(BUCKETS if own else 0):
        rows = sorted(_read_bucket(scattered, number), key=itemgetter(0))
        with _bucket(scattered.scratch, number).open("wb") as bucket:
            for source, named in groupby(rows, key=itemgetter(0)):
                groups = [group for _, group in named]
                if source in own:
                    read = len(groups)
                    groups, rejected = join_parts(groups)
                    scattered.tally.sources[source]["groups"] -= read - len(groups)
                    for record in rejected:
                        scattered.tally.reject(source, record)
                    for group in groups:
                        scattered.count(group, own[source])
                        links.add(group, scope="" if own[source] is None else source)
                for group in groups:
                    pickle.dump((source, group), bucket)
    scattered.document_of = links.joined()
    for document in scattered.document_of:
        del scattered.documents[document]


def shuffled(scattered: Scattered, seed: int) -> Iterator[tuple[str, Group]]:
    """(source, group) of every group once, in the order of a hash of its id; a second one of an id is rejected."""
    for bucket in range(BUCKETS):
        groups = _read_bucket(scattered, bucket)
        rows = [(hashed_order(seed, "shuffle", group.group_id), source, group) for source, group in groups]
        rows.sort(key=itemgetter(0))
        for _, equals in groupby(rows, key=itemgetter(0)):
            same = list(equals)
            if len(same) > 1:
                # The one that is kept must not depend on the order of the input either.
                same.sort(key=lambda row: fingerprint(row[2]))
            for _, source, group in same[1:]:
                scattered.tally.sources[source]["groups"] -= 1
                duplicate = Rejected(group.group_id, "duplicate group_id", shorten(dict(group.queries)))
                scattered.tally.reject(source, duplicate)
            yield same[0][1:]


def place_of(group_id: str, seed: int) -> tuple[int, str]:
    """What `shuffled` sorts by: groups that a store has in this order are as if `prepare` had shuffled them."""
    return _bucket_of(group_id), hashed_order(seed, "shuffle", group_id)


def groups_of(scattered: Scattered, source: str) -> Iterator[Group]:
    """Every group of a source, in no order that means anything."""
    buckets = (_read_bucket(scattered, bucket) for bucket in range(BUCKETS))
    return (group for bucket in buckets for name, group in bucket if name == source)


def _read_bucket(scattered: Scattered, number: int) -> Iterator[tuple[str, Group]]:
    with _bucket(scattered.scratch, number).open("rb") as file:
        while file.peek(1):
            source, group = pickle.load(file)
            document = scattered.document_of.get(group.document)
            yield source, replace(group, document=document) if document else group


def _bucket_of(group_id: str) -> int:
    return int(hashed_order(0, "bucket", group_id)[:8], 16) % BUCKETS


def _bucket(scratch: Path, number: int) -> Path:
    return scratch / f"bucket-{number:02d}"

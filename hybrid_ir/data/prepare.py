"""Prepare: sources in, a shuffled, partitioned, split store out. Streams; memory holds one bucket of the data.

Two passes: the first scatters groups over buckets by a hash of their id and learns the documents and language
signatures; the second sorts each bucket by another hash (a global shuffle that does not depend on the order of the
input), splits by document, and writes. The same sources and seed give the same store, byte order of the input aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

import hybrid_ir
from hybrid_ir.data.groups import shorten
from hybrid_ir.data.store import FORMAT, PartitionWriter, write_collection
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import Candidate, Collection, Group, InputError, Query, Records, Rejected

Split = Literal["train", "validation", "test"]
BUCKETS = 64
SMALL_PARTITION = 256
"""Groups below which a signature is folded into one with fewer languages, if that one keeps at least two."""

FACTS_TO_HOLD_OUT = 4
"""Facts that a source with subjects must state of one before any of them is held out."""


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


def prepare(
    inputs: Sequence[Input],
    path: str,
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    settings: dict[str, Any],
    progress: Callable[[str, int], None] = lambda source, groups: None,
) -> dict[str, Any]:
    """Write the store at `path` and return its manifest. `settings` is recorded in it.

    A local store appears whole or not at all; on an object store the manifest is written last. Raises InputError when a
    source yields no good group, when nothing is left to train on, or when `path` holds something that is not a store.
    """
    root, publish = _staging(path)
    with tempfile.TemporaryDirectory(prefix="hybrid-ir-prepare-") as scratch:
        try:
            scattered = _scatter(inputs, Path(scratch), root, progress)
            split_of = assign_splits(scattered.documents, seed, validation_fraction, test_fraction)
            manifest = _write(inputs, scattered, split_of, Path(scratch), root, seed) | {"settings": settings}
            filesystem, inner = open_filesystem(root)
            with filesystem.open_output_stream(f"{inner}/manifest.json") as stream:
                stream.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())
        except BaseException:
            publish(None)
            raise
    publish(path)
    return manifest


def assign_splits(
    documents: Iterable[tuple[str, Split | None]], seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, Split]:
    """Split of every (document, where it must go), from a hash of (seed, document): of the free ones (None) exact shares,
    rounded to the nearest document, and never dependent on the order they came in."""
    split_of: dict[str, Split] = {}
    free = []
    for document, fixed in documents:
        if fixed is not None:
            split_of[document] = fixed
        else:
            free.append(document)
    free.sort(key=lambda d: _order(seed, "split", d))
    test, validation = round(test_fraction * len(free)), round(validation_fraction * len(free))
    for i, document in enumerate(free):
        split_of[document] = "test" if i < test else "validation" if i < test + validation else "train"
    return split_of


def partition_signatures(counts: Counter[tuple[tuple[str, ...], bool]]) -> dict[tuple, tuple]:
    """Partition (languages, negatives) of each signature that was seen: its own, or, for a rare one, the largest subset
    of its languages that another signature has (so that odd groups are used rather than stranded)."""
    target = {signature: signature for signature in counts}
    sizes = Counter(counts)
    for signature in sorted(counts, key=lambda s: (-len(s[0]), s)):
        if sizes[signature] >= SMALL_PARTITION:
            continue
        languages, negatives = signature
        fits = [
            s
            for s in sizes
            if len(s[0]) >= 2
            and (set(s[0]), s[1]) != (set(languages), negatives)
            and set(s[0]) <= set(languages)
            and (negatives or not s[1])
            and sizes[s] > 0
        ]
        if fits:
            best = max(fits, key=lambda s: (len(s[0]), s[1], sizes[s], s))
            sizes[best] += sizes.pop(signature)
            target = {s: best if t == signature else t for s, t in target.items()}
    return target


@dataclass
class _Scattered:
    documents: list[tuple[str, Split | None]]
    signatures: Counter[tuple[tuple[str, ...], bool]]
    report: dict[str, dict[str, Any]]
    rejects: _Rejects


def _scatter(inputs: Sequence[Input], scratch: Path, root: str, progress: Callable[[str, int], None]) -> _Scattered:
    buckets = [(scratch / f"bucket-{i:02d}").open("wb") for i in range(BUCKETS)]
    documents: dict[str, Split | None] = {}
    subjects: dict[str, str] = {}
    signatures: Counter[tuple[tuple[str, ...], bool]] = Counter()
    report: dict[str, dict[str, Any]] = {}
    rejects = _Rejects(root)
    try:
        for source in inputs:
            read, rejected = 0, Counter()
            for record in source.records():
                if isinstance(record, Rejected):
                    rejected[record.reason] += 1
                    rejects.add(source.name, record)
                    continue
                group = replace(
                    record,
                    group_id=f"{source.name}:{record.group_id}",
                    document=f"{source.name}:{record.document}",
                )
                documents.setdefault(group.document, source.use)
                if source.subject_of:
                    subjects[group.document] = f"{source.name}:{source.subject_of(record.group_id)}"
                signatures[_signature(group)] += 1
                pickle.dump((source.name, group), buckets[int(_order(0, "bucket", group.group_id)[:8], 16) % BUCKETS])
                read += 1
                if read % 1000 == 0:
                    progress(source.name, read)
            progress(source.name, read)
            if not read:
                reasons = "; ".join(f"{n} x {reason}" for reason, n in rejected.most_common(3))
                raise InputError(
                    f"source {source.name!r} has no good group"
                    + (
                        f"; all {sum(rejected.values())} records were rejected: {reasons}"
                        if rejected
                        else "; it is empty"
                    )
                )
            report[source.name] = {"groups": read, "rejected": dict(rejected), "use": source.use}
    finally:
        for bucket in buckets:
            bucket.close()
    # A subject that little else is said about stays in training: held out, its names would be seen for the first time.
    facts = Counter(subjects.values())
    rare = {document for document, subject in subjects.items() if facts[subject] < FACTS_TO_HOLD_OUT}
    asked: list[tuple[str, Split | None]] = [
        (d, split or ("train" if d in rare else None)) for d, split in documents.items()
    ]
    return _Scattered(asked, signatures, report, rejects)


def _write(
    inputs: Sequence[Input], scattered: _Scattered, split_of: dict[str, Split], scratch: Path, root: str, seed: int
) -> dict[str, Any]:
    partition_of = partition_signatures(scattered.signatures)
    names = {target: f"p{i:03d}" for i, target in enumerate(sorted(set(partition_of.values())))}
    writers: dict[tuple, PartitionWriter] = {}
    held_out: dict[Split, list[Group]] = {"validation": [], "test": []}
    split_counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    dropped_versions = 0
    for source_name, group in _shuffled(scratch, seed, scattered):
        split = split_of[group.document]
        split_counts[split] += 1
        scattered.report[source_name][split] = scattered.report[source_name].get(split, 0) + 1
        if split != "train":
            held_out[split].append(group)
            continue
        target = partition_of[_signature(group)]
        if target not in writers:
            writers[target] = PartitionWriter(root, names[target], *target)
        writers[target].add(group)
        languages.update(target[0])
        dropped_versions += len(group.queries) - len(target[0])
    partitions = [writers[t].close() for t in sorted(writers, key=lambda t: names[t])]
    if not partitions:
        raise InputError("nothing is left to train on; lower prepare.test_fraction or add sources")
    evals = {}
    for split, groups in held_out.items():
        if groups:
            write_collection(f"{root}/eval/{split}", *_collection(inputs, groups, split, split_of, scratch))
            evals[split] = f"eval/{split}"
    _write_splits(root, split_of)
    scattered.rejects.close()
    digest = hashlib.blake2b("".join(p["content_hash"] for p in partitions).encode(), digest_size=16).hexdigest()
    return {
        "format": FORMAT,
        "version": hybrid_ir.__version__,
        "seed": seed,
        "content_hash": digest,
        "groups": dict(split_counts),
        "languages": dict(sorted(languages.items())),
        "language_versions_unused": dropped_versions,
        "sources": scattered.report,
        "partitions": partitions,
        "eval": evals,
    }


def _shuffled(scratch: Path, seed: int, scattered: _Scattered) -> Iterator[tuple[str, Group]]:
    """Every group once, in an order that depends on its id and the seed alone; a second one of an id is rejected."""
    for i in range(BUCKETS):
        rows = []
        with (scratch / f"bucket-{i:02d}").open("rb") as file:
            while file.peek(1):
                source, group = pickle.load(file)
                rows.append((_order(seed, "shuffle", group.group_id), source, group))
        rows.sort(key=itemgetter(0))
        for _, equals in groupby(rows, key=itemgetter(0)):
            same = list(equals)
            if len(same) > 1:
                # The one that is kept must not depend on the order of the input either.
                same.sort(key=lambda row: _fingerprint(row[2]))
            for _, source, group in same[1:]:
                report = scattered.report[source]
                report["groups"] -= 1
                report["rejected"]["duplicate group_id"] = report["rejected"].get("duplicate group_id", 0) + 1
                shown = shorten(dict(group.queries))
                scattered.rejects.add(source, Rejected(group.group_id, "duplicate group_id", shown))
            _, source, group = same[0]
            yield source, group


def _collection(
    inputs: Sequence[Input], groups: list[Group], split: Split, split_of: dict[str, Split], scratch: Path
) -> tuple[list[Query], list[Candidate]]:
    """Queries and the pool of a split. Candidates of one doc_id and language are one, which answers all its groups."""
    queries = [
        Query(f"{g.group_id}/{language}", g.group_id, language, text)
        for g in groups
        for language, text in g.queries.items()
    ]
    pool: dict[tuple[str, str], Candidate] = {}

    def add(doc_id: str, language: str, text: str, document: str, group_ids: tuple[str, ...]) -> None:
        known = pool.get((doc_id, language))
        merged = tuple(dict.fromkeys((*(known.group_ids if known else ()), *group_ids)))
        pool[doc_id, language] = Candidate(doc_id, merged, language, text, document)

    for source in inputs:
        own = [g for g in groups if g.group_id.startswith(f"{source.name}:")]
        for g in own:
            for language, passage in g.passages.items():
                add(f"{source.name}:{passage.doc_id}", language, passage.text, g.document, (g.group_id,))
        if source.collection and own:
            for c in source.collection().candidates:
                if split_of.get(f"{source.name}:{c.document}") == split:
                    add(f"{source.name}:{c.doc_id}", c.language, c.text, f"{source.name}:{c.document}", ())
        if source.subject_of and own:
            subjects = {source.subject_of(g.group_id.partition(":")[2]) for g in own}
            for g in _all_groups(scratch, source.name):
                if split_of[g.document] == "train" and source.subject_of(g.group_id.partition(":")[2]) in subjects:
                    for language, passage in g.passages.items():
                        add(f"{source.name}:{passage.doc_id}", language, passage.text, g.document, ())
    return queries, sorted(pool.values(), key=lambda c: (c.language, _order(0, "pool", c.doc_id)))


def _all_groups(scratch: Path, source: str) -> Iterator[Group]:
    for i in range(BUCKETS):
        with (scratch / f"bucket-{i:02d}").open("rb") as file:
            while file.peek(1):
                name, group = pickle.load(file)
                if name == source:
                    yield group


def _signature(group: Group) -> tuple[tuple[str, ...], bool]:
    return tuple(sorted(group.queries)), bool(group.negatives) and set(group.negatives) == set(group.queries)


def _fingerprint(group: Group) -> str:
    return repr(
        (group.document, sorted(group.queries.items()), sorted(group.passages.items()), sorted(group.negatives.items()))
    )


def _order(seed: int, purpose: str, text: str) -> str:
    return hashlib.blake2b(f"{seed}/{purpose}/{text}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class _Rejects:
    """One JSON-lines file a source, opened when its first record is rejected."""

    def __init__(self, root: str) -> None:
        self._filesystem, self._inner = open_filesystem(root)
        self._files: dict[str, Any] = {}

    def add(self, source: str, record: Rejected) -> None:
        if source not in self._files:
            self._filesystem.create_dir(f"{self._inner}/rejected", recursive=True)
            self._files[source] = self._filesystem.open_output_stream(f"{self._inner}/rejected/{source}.jsonl")
        line = json.dumps(record._asdict(), ensure_ascii=False)
        # A byte that was not UTF-8 came as a lone surrogate; its backslash escape is JSON.
        self._files[source].write((line + "\n").encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _write_splits(root: str, split_of: dict[str, Split]) -> None:
    filesystem, inner = open_filesystem(root)
    rows = sorted(split_of.items())
    table = pa.table({"document": [d for d, _ in rows], "split": [s for _, s in rows]})
    pq.write_table(table, f"{inner}/splits.parquet", filesystem=filesystem, compression="zstd")


def _staging(path: str) -> tuple[str, Callable[[str | None], None]]:
    """Where to write, and how to publish (None: give up): a local folder is built beside its place and moved there."""
    filesystem, inner = open_filesystem(path)
    occupied = filesystem.get_file_info(inner)
    if occupied.type == fs.FileType.File:
        raise InputError(f"{path} is a file; choose another folder with store=FOLDER")
    is_store = _holds_a_store(filesystem, inner)
    if occupied.type == fs.FileType.Directory and not is_store and filesystem.get_file_info(fs.FileSelector(inner)):
        raise InputError(
            f"{path} holds something that is not a store, so it is left alone; choose another store=FOLDER"
        )
    if not isinstance(filesystem, fs.LocalFileSystem):
        if is_store:
            filesystem.delete_dir_contents(inner)

        def publish_remote(target: str | None) -> None:
            if target is None:
                filesystem.delete_dir_contents(inner, missing_dir_ok=True)

        return path, publish_remote
    place = Path(inner).resolve()  # a link to a folder stays, and leads to the new store
    stage = place.with_name(f"{place.name}.partial-{os.getpid()}")
    new_parents = [parent for parent in place.parents if not parent.exists()]
    try:
        stage.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write a store at {path}: {error.strerror}; choose another store=FOLDER") from error

    def publish(target: str | None) -> None:
        if target is None:
            shutil.rmtree(stage, ignore_errors=True)
            for parent in new_parents:
                with suppress(OSError):
                    parent.rmdir()
            return
        old = place.with_name(f"{place.name}.old-{os.getpid()}")
        if place.exists():
            place.rename(old)
        stage.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    return str(stage), publish


def _holds_a_store(filesystem: fs.FileSystem, inner: str) -> bool:
    """A run and a checkpoint have a manifest.json too: they are not to be overwritten."""
    try:
        with filesystem.open_input_stream(f"{inner}/manifest.json") as stream:
            manifest = json.loads(stream.read())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "partitions"} <= manifest.keys()

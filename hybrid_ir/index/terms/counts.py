"""What BM25 must know of the whole index: how many living passages have each word.

In: shards that are written, and what of them is deleted. Out: `lexical-HASH.arrow` beside them, and the part of the
manifest that goes with it. No shard need answer for a query to be weighed, so what is missing changes no score.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.index.folder import (
    REBUILD,
    File,
    LexicalOf,
    Manifest,
    ShardEntry,
    check_files,
    describe_files,
    hash_file,
    local_files,
)
from hybrid_ir.index.terms.written import open_terms
from hybrid_ir.index.tombstones import living_rows
from hybrid_ir.lexical import RULE, TERMS, Postings, Statistics, count_terms, read_statistics, write_statistics
from hybrid_ir.types import InputError, one_line


def count_words(
    index: Path, shards: Sequence[ShardEntry], rule: int = RULE
) -> tuple[LexicalOf | None, dict[str, File]]:
    """The manifest's part of the words of all shards, and its entry of the file that counts them, which is written; an
    index that was built without them has neither. `rule` is the one that the shards were written by. Raises InputError
    for damaged words."""
    if not all(f"shards/{shard.name}/{TERMS}" in shard.files for shard in shards):
        return None, {}
    statistics = _count(index, shards)
    partial = index / ".lexical.partial"
    write_statistics(partial, statistics)
    name = f"lexical-{hash_file(partial)[:16]}.arrow"
    os.replace(partial, index / name)  # over what has the same bytes, if an earlier version counted the same
    lexical = LexicalOf(rule=rule, words=statistics.words, terms=len(statistics.terms))
    return lexical, describe_files(index, [name])


def check_words(index: Path, manifest: Manifest) -> None:
    """Raises InputError where the counts are not those of the shards."""
    if manifest.lexical is None:
        return
    said, counted = open_statistics(index, manifest), _count(index, manifest.shards)
    if said is not None and not (
        (said.passages, said.words) == (counted.passages, counted.words)
        and bytes(said.terms.data) == bytes(counted.terms.data)
        and said.counts.tolist() == counted.counts.tolist()
    ):
        raise InputError(f"{index}: the words of the shards are other ones than its lexical-*.arrow counts; {REBUILD}")


def open_statistics(index: str | Path, manifest: Manifest) -> Statistics | None:
    """The counts of an index, its file checked; None where it was built without words, or by another rule of what a
    word is. Raises InputError that names the file at fault."""
    if manifest.lexical is None or manifest.lexical.rule != RULE:
        return None
    files = {name: file for name, file in manifest.files.items() if name.startswith("lexical-")}
    check_files(index, files)
    folder = local_files(index, files)
    try:
        (name,) = files
        statistics = read_statistics(folder / name, manifest.rows, manifest.lexical.words)
        if len(statistics.terms) != manifest.lexical.terms:
            raise ValueError(f"it has {len(statistics.terms)} words, and the manifest says {manifest.lexical.terms}")
    except (ValueError, OSError) as error:
        raise InputError(f"{folder}: the counts of words cannot be read ({one_line(error)}); {REBUILD}") from error
    return statistics


def _count(index: Path, shards: Sequence[ShardEntry]) -> Statistics:
    parts = ((_postings_of(index, shard), living_rows(index, shard)) for shard in shards)
    return count_terms((postings, living) for postings, living in parts if postings is not None)


def _postings_of(index: Path, shard: ShardEntry) -> Postings | None:
    folder = index / "shards" / shard.name
    try:
        return open_terms(folder, shard.rows)
    except (ValueError, OSError) as error:
        raise InputError(f"{folder / TERMS}: its words cannot be read ({one_line(error)}); {REBUILD}") from error

"""Compaction: an index without deleted rows, and with as many shards as its size needs. Its answers are the same.

In: an index folder. Out: a new version of it, whose shards are written anew out of those that are there.

Nothing is encoded: vectors, codes and passages are taken as they are. A code that was made of the encoder's own vector
could not be made again from the float16 vector beside it. So `nprobe` and the recall that was measured stay too. Words,
where an index has them, are read again out of the passages. Old versions stay until they are pruned.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from hybrid_ir.config import Index
from hybrid_ir.index.changes.change import next_shard, unchanged
from hybrid_ir.index.codec import ROWS_PER_SHARD, make_codec
from hybrid_ir.index.folder import Manifest, ShardEntry, check_files, is_counted, read_manifest
from hybrid_ir.index.fragments import save_array
from hybrid_ir.index.passage_table import ROWS_PER_BATCH, PassageTable, passage_schema
from hybrid_ir.index.pieces.table import PIECES, runs
from hybrid_ir.index.query import ShardQuery, is_flat, merge
from hybrid_ir.index.ray_stages import Progress, write_each
from hybrid_ir.index.resuming import claim, clear, is_finished
from hybrid_ir.index.searching.exact import BLOCK
from hybrid_ir.index.searching.lists import list_codes
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.terms.counts import count_words
from hybrid_ir.index.terms.written import write_terms
from hybrid_ir.index.tombstones import keys_of_living
from hybrid_ir.index.writing import (
    alone,
    begin_halves,
    count_lists,
    cut_shards,
    describe_shard,
    keep_version,
    make_manifest,
    open_shards,
    publish,
    write_faiss,
)
from hybrid_ir.types import InputError

CHECKED = 64
"""Passages of each shard whose answers are compared before a compacted index is published."""
SHARD, ROW, LANGUAGE = range(3)
"""Columns of a part: where a passage comes from, and the number of its language in the order of their names."""


def compact_index(out: str, settings: Index, *, seed: int, progress: Progress = lambda what, done: None) -> Manifest:
    """Write a version of the index without deleted rows, in `settings.shards` shards or one a million passages; the
    version that there is if it is so already. The task that writes a shard holds it in memory. Needs a running Ray.

    Raises InputError for a damaged index, and while another process writes it.
    """
    read_manifest(out)
    with alone(Path(out).absolute()):
        return _compact(Path(out).absolute(), settings, seed, progress)


def _compact(index: Path, settings: Index, seed: int, progress: Progress) -> Manifest:
    build, old = index / ".build", read_manifest(index)
    vectors = old.rows if old.pieces is None else old.pieces.vectors
    count = settings.shards or min(-(-vectors // ROWS_PER_SHARD), old.rows)
    inputs: list[Any] = [["compacted", count]]
    keep_version(index)
    if is_finished(build, inputs, old.index_version, addition=True):
        return old
    if all(shard.deleted is None for shard in old.shards) and len(old.shards) <= count:
        return old
    check_files(index, old.every_file)
    claim(build, inputs, old.space, seed=seed, precision=settings.precision, base=old.index_version)
    shards = open_shards(index, old, checksums=False)
    languages, keys = sorted(old.languages), keys_of_living(index, old.shards)
    living = _living(shards, languages)
    parts = [living[part] for part in cut_shards(living[:, LANGUAGE], languages, count, old.sharding, seed)]
    trained = make_codec(old.codec, old.space["dimension"])
    if not is_flat(old.codec):
        trained = faiss.read_index(str(index / "codec.faiss"))
    first = int(next_shard(index))
    entries = write_each(
        index,
        [f"{first + n:03d}" for n in range(count)],
        parts,
        faiss.serialize_index(trained),
        {"compacted": old.index_version, "shards": count, "seed": seed},
        partial(_write_shard, index, old, languages, keys),
        settings,
        progress,
    )
    lexical, counted = count_words(index, entries)
    draft = make_manifest(
        index,
        **unchanged(old),
        shards=entries,
        keys=keys,
        rejected=old.rejected,
        settings=old.settings,
        files={name: file for name, file in old.files.items() if not is_counted(name)},
        nprobe=old.nprobe,
        recall=old.recall,
        cut=old.cut,
        lexical=lexical,
    )
    made = open_shards(index, draft, checksums=False)
    for shard in shards:  # an older version counted less of its pieces, and visits other lists for that
        shard.totals = replace(shard.totals, pieces=draft.pieces)
    lists = count_lists(index, made)
    try:
        _check_answers(shards, made, old)
    except InputError:
        clear(build)  # the same command would end so again
        raise
    manifest = publish(index, draft.model_copy(update={"files": draft.files | lists | counted}))
    clear(build)
    return manifest


def _check_answers(before: Sequence[Shard], after: Sequence[Shard], manifest: Manifest) -> None:
    """Raises InputError where some of the passages, as queries, find others than before: of a codec whose codes FAISS
    does not let us take as they are."""
    queries = [ShardQuery(10)] * CHECKED
    for shard in before:
        rows = np.arange(shard.rows) if shard.living is None else np.flatnonzero(shard.living)
        vectors = np.array(shard.vectors[shard.first(rows[:: -(-len(rows) // CHECKED)])], dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        found = []
        for shards in (before, after):
            parts = [one.search(vectors, queries[: len(vectors)]) for one in shards]
            merged = (
                merge([part[i] for part in parts], 10, not is_flat(manifest.codec), None, manifest.candidates)
                for i in range(len(vectors))
            )
            found.append([[(hit.global_id, hit.score) for hit in hits] for hits in merged])
        if found[0] != found[1]:
            raise InputError(
                f"an index of the codec {manifest.codec} cannot be compacted: its answers would change; build it again "
                "of the passages that are left"
            )


def _living(shards: Sequence[Shard], languages: Sequence[str]) -> np.ndarray:
    """(passages, 3): shard, row and language of every living passage, in the order of their global ids."""
    found, ids = [], []
    for number, shard in enumerate(shards):
        of_row = np.zeros(shard.rows, dtype=np.int64)
        for name, (start, end) in shard.entry.languages.items():
            of_row[start:end] = languages.index(name) if name in languages else -1  # of which none is left
        rows = np.arange(shard.rows) if shard.living is None else np.flatnonzero(shard.living)
        found.append(np.stack([np.full(len(rows), number), rows, of_row[rows]], axis=1))
        ids.append(shard.ids[rows])
    return np.concatenate(found)[np.argsort(np.concatenate(ids))]


def _write_shard(
    index: Path,
    old: Manifest,
    languages: Sequence[str],
    keys: Sequence[str],
    name: str,
    part: np.ndarray,
    empty: np.ndarray,
) -> ShardEntry:
    """Write one shard's files. part: (rows, 3), sorted by language, then by global id."""
    folder = index / "shards" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards, trained, flat = open_shards(index, old, checksums=False), faiss.deserialize_index(empty), is_flat(old.codec)
    every = part
    if old.pieces is not None:
        every, of = _pieces_of(shards, part)
        spans = _gathered([shard.pieces.spans(np.arange(len(shard.pieces))) for shard in shards if shard.pieces], every)
        save_array(folder / PIECES, np.concatenate([of[:, None].astype(np.int32), spans], axis=1))
    with nullcontext() if flat else (folder / "vectors.f16.npy").open("wb") as halves:
        if halves is not None:
            begin_halves(halves, len(every), trained.d)
        for start in range(0, len(every), BLOCK):
            vectors = _gathered([shard.vectors for shard in shards], every[start : start + BLOCK])
            if halves is None:
                trained.add(vectors)
            else:
                halves.write(vectors.tobytes())
    if not flat:
        _copy_codes(trained, shards, every)
    write_faiss(trained, folder / "vectors.faiss")
    save_array(folder / "ids.npy", _gathered([shard.ids for shard in shards], part))
    _copy_passages(folder / "passages.arrow", [shard.passages for shard in shards], part, keys)
    if old.lexical is not None:
        write_terms(folder)
    return describe_shard(index, name, part[:, LANGUAGE], languages)


def _pieces_of(shards: Sequence[Shard], part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(vectors, 2): shard and number of every vector of the part's passages; (vectors,): whose of the part each is."""
    starts, ends = np.empty(len(part), np.int64), np.empty(len(part), np.int64)
    for number, shard in enumerate(shards):
        assert shard.pieces is not None
        here = part[:, SHARD] == number
        starts[here] = shard.pieces.starts[part[here, ROW]]
        ends[here] = shard.pieces.starts[part[here, ROW] + 1]
    of = np.repeat(np.arange(len(part)), ends - starts)
    return np.stack([part[of, SHARD], runs(starts, ends)], axis=1), of


def _gathered(of_shards: Sequence[np.ndarray], part: np.ndarray) -> np.ndarray:
    """What the shards have of each passage, or vector, in the part's order."""
    out = np.empty((len(part), *of_shards[0].shape[1:]), of_shards[0].dtype)
    for number in np.unique(part[:, SHARD]):
        here = part[:, SHARD] == number
        out[here] = of_shards[number][part[here, ROW]]
    return out


def _copy_passages(path: Path, tables: Sequence[PassageTable], part: np.ndarray, keys: Sequence[str]) -> None:
    schema = passage_schema(keys)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(part), ROWS_PER_BATCH):
            some, pieces, places = part[start : start + ROWS_PER_BATCH], [], []
            for number in np.unique(some[:, SHARD]):
                here = np.flatnonzero(some[:, SHARD] == number)
                found = tables[number].take(some[here, ROW])
                absent = pa.nulls(len(here), pa.string())  # a key that no passage of this shard has
                columns = [found[name] if name in found.column_names else absent for name in schema.names]
                pieces.append(pa.table(columns, schema=schema))
                places.append(here)
            table = pa.concat_tables(pieces).take(pa.array(np.argsort(np.concatenate(places))))
            (batch,) = table.combine_chunks().to_batches()
            writer.write_batch(batch)


def _copy_codes(trained: Any, shards: Sequence[Shard], part: np.ndarray) -> None:
    """Put the part's codes into the empty index, whose lists then hold them in the order of the vectors."""
    places = []
    for number, shard in enumerate(shards):
        place = np.full(len(shard.vectors), -1)  # of each vector in the new shard
        here = np.flatnonzero(part[:, SHARD] == number)
        place[part[here, ROW]] = here
        places.append(place)
    target: Any = faiss.downcast_InvertedLists(trained.invlists)
    for number in range(trained.nlist):
        rows, codes = [], []
        for shard, place in zip(shards, places, strict=True):
            old_rows, old_codes = list_codes(shard, number)
            new_rows = place[old_rows]
            rows.append(new_rows[new_rows >= 0])
            codes.append(old_codes[new_rows >= 0])
        order = np.argsort(np.concatenate(rows))
        if len(order):
            ids, flat = np.concatenate(rows)[order], np.concatenate(codes)[order]
            packed = _packed(target, flat)
            target.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(packed))
    trained.ntotal = len(part)


def _packed(target: Any, codes: np.ndarray) -> np.ndarray:
    """Codes as the lists hold them: one after the other, or in blocks of as many as a processor compares at once."""
    if not hasattr(target, "packer"):
        return np.ascontiguousarray(codes)
    packer = target.packer
    blocks = np.zeros((-(-len(codes) // packer.nvec), packer.block_size), np.uint8)
    for n, code in enumerate(np.ascontiguousarray(codes)):
        packer.pack_1_c(faiss.swig_ptr(code), n % packer.nvec, faiss.swig_ptr(blocks[n // packer.nvec]))
    return blocks

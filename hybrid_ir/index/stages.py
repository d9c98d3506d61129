"""The stages of an index build, each from files to files, each a plain function: without Ray, and resumable by file.

    passages -> fragments -> vectors of a fragment -> codec trained on a sample -> shards -> recall gate -> manifest

    OUT/.build/build.json                 what is built: a killed build goes on only with the same
    OUT/.build/fragments/00000/           passages.arrow, languages.npy, and, once encoded, vectors.npy
A fragment is FRAGMENT_ROWS passages in input order, so global id = fragment * FRAGMENT_ROWS + row.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import hybrid_ir
from hybrid_ir.index.folder import FORMAT, Manifest, ShardEntry, describe_files, version_of
from hybrid_ir.index.passages import MAX_METADATA_KEYS, IndexedPassage, PassageTable, read_passages, write_passages
from hybrid_ir.index.shard import BLOCK, Hit, Shard, ShardQuery, is_flat, merge, open_shard
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError, Rejected, key64

FRAGMENT_ROWS = 4096
FLAT_BELOW = 100_000
"""Passages a shard from which IVF with SQ8 is the default."""
ROWS_PER_SHARD = 1_000_000
RECALL_K = 10


@dataclass(frozen=True)
class Fragments:
    """Passages cut into fragments, on disk. `counts` are rows of each."""

    folder: Path
    counts: tuple[int, ...]
    languages: tuple[str, ...]
    keys: tuple[str, ...]
    rejected: dict[str, int]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}"

    def encoded(self, number: int) -> bool:
        return (self.path(number) / "vectors.npy").is_file()

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def row_languages(self) -> np.ndarray:
        """(rows,) int16: number in `languages` of every passage, by global id."""
        return np.concatenate([np.load(self.path(n) / "languages.npy") for n in range(len(self.counts))])

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids), D) float32 of the given global ids, in their order. Reads only the pages they are on."""
        out: np.ndarray | None = None
        for number in np.unique(ids // FRAGMENT_ROWS):
            stored = np.load(self.path(int(number)) / "vectors.npy", mmap_mode="r")
            if out is None:
                out = np.empty((len(ids), stored.shape[1]), dtype=np.float32)
            where = np.flatnonzero(ids // FRAGMENT_ROWS == number)
            out[where] = stored[ids[where] % FRAGMENT_ROWS]
        assert out is not None
        return out

    def passages(self, ids: np.ndarray) -> Iterator[IndexedPassage]:
        """Passages of the given global ids, in their order."""
        table, opened = None, -1
        for number, row in zip((ids // FRAGMENT_ROWS).tolist(), (ids % FRAGMENT_ROWS).tolist(), strict=True):
            if number != opened:
                table, opened = PassageTable(self.path(number) / "passages.arrow"), number
            assert table is not None
            yield table[row]


def ingest(
    paths: Sequence[str],
    build: Path,
    known: Callable[[str], bool] = lambda doc_id: False,
    progress: Callable[[str, int], None] = lambda what, done: None,
) -> Fragments:
    """Cut the passages of the files into fragments under `build`, or find that they have been. Rejects go to
    `build`/rejected.jsonl. `known` says which doc_ids the index has already.

    Raises InputError if nothing in them is good.
    """
    marker = build / "ingest.json"
    if marker.is_file():
        done = json.loads(marker.read_text(encoding="utf-8"))
        parts = [tuple(done[name]) for name in ("counts", "languages", "keys")]
        return Fragments(build / "fragments", parts[0], parts[1], parts[2], done["rejected"])
    shutil.rmtree(build / "fragments", ignore_errors=True)
    counts: list[int] = []
    languages: dict[str, int] = {}
    keys: dict[str, None] = {}
    reasons: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[IndexedPassage] = []

    def flush() -> None:
        folder = build / "fragments" / f"{len(counts):05d}"
        folder.mkdir(parents=True)
        write_passages(folder / "passages.arrow", waiting, sorted({k for p in waiting for k in p.metadata}))
        np.save(folder / "languages.npy", np.asarray([languages[p.language] for p in waiting], dtype=np.int16))
        counts.append(len(waiting))
        waiting.clear()
        progress("passages", sum(counts))

    with (build / "rejected.jsonl").open("w", encoding="utf-8") as rejects:
        for path in paths:
            for item in read_passages(path):
                key = 0
                if isinstance(item, IndexedPassage):
                    key = key64(item.doc_id)
                    if key in seen or known(item.doc_id):
                        item = Rejected(path, "duplicate doc_id", item.doc_id[:200])
                    elif len(keys.keys() | item.metadata.keys()) > MAX_METADATA_KEYS:
                        item = Rejected(
                            path, f"more than {MAX_METADATA_KEYS} different metadata keys", item.doc_id[:200]
                        )
                if isinstance(item, Rejected):
                    reasons[item.reason] += 1
                    shown = json.dumps(item._asdict(), ensure_ascii=False)
                    rejects.write(shown.encode("utf-8", "backslashreplace").decode() + "\n")
                    continue
                seen.add(key)
                languages.setdefault(item.language, len(languages))
                keys.update(dict.fromkeys(item.metadata))
                waiting.append(item)
                if len(waiting) == FRAGMENT_ROWS:
                    flush()
    if waiting:
        flush()
    if not counts:
        why = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3)) or "the files hold no record"
        raise InputError(f"no passage of {', '.join(map(str, paths))} can be indexed ({why})")
    done = {"counts": counts, "languages": list(languages), "keys": sorted(keys), "rejected": dict(reasons)}
    write_json(marker, done)
    return Fragments(build / "fragments", tuple(counts), tuple(languages), tuple(sorted(keys)), dict(reasons))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write, then rename into place: a file that is there is whole."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    os.replace(partial, path)


def default_codec(rows: int, shards: int) -> str:
    """Flat below `FLAT_BELOW` passages a shard. Above it IVF with SQ8, about 4 sqrt(rows) lists in all (faiss' own guideline),
    a power of two."""
    if rows / shards < FLAT_BELOW:
        return "Flat"
    return f"IVF{2 ** round(np.log2(4 * np.sqrt(rows)))},SQ8"


def make_codec(codec: str, dimension: int) -> Any:
    """The untrained faiss index. Raises InputError for a string that faiss does not know, or a kind whose shards would not
    answer as the whole."""
    try:
        index = faiss.index_factory(dimension, codec, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1][:200]
        raise InputError(
            f"codec {codec!r} is not one of faiss' for {dimension} dimensions ({said}); use Flat or IVF1024,SQ8"
        ) from None
    plain = (faiss.IndexFlat, faiss.IndexFlatIP)
    ivf = isinstance(index, faiss.IndexIVF) and type(faiss.downcast_index(index.quantizer)) in plain
    if not (ivf or type(index) in plain):
        raise InputError(
            f"codec {codec!r} makes a {type(index).__name__}, which cannot be cut into shards that answer as the whole; "
            "use Flat, or IVF with Flat, SQ8, PQ and the like"
        )
    return index


def train_codec(codec: str, fragments: Fragments, dimension: int, seed: int) -> Any:
    """One trained, empty index for all shards, on a sample stratified by language: 64 passages a list, at least 256 of each
    language or all it has."""
    index = make_codec(codec, dimension)
    if is_flat(codec):
        return index
    wanted = max(64 * index.nlist, 10_000)
    if fragments.rows < index.nlist:
        raise InputError(
            f"codec {codec!r} has more lists than there are passages ({fragments.rows}); use Flat, or fewer lists"
        )
    sample = stratified_sample(fragments.row_languages(), wanted, 256, seed)
    index.cp.seed = seed
    # Fewer than faiss' 39 a list is for us to decide, not a warning on the console.
    index.cp.min_points_per_centroid = 1
    index.train(fragments.vectors(sample))
    return index


def stratified_sample(row_languages: np.ndarray, wanted: int, at_least: int, seed: int) -> np.ndarray:
    """Sorted global ids, `wanted` in all or a few more: each language by its share, but `at_least` of it (or all)."""
    rng = np.random.default_rng(seed)
    chosen = []
    for language in np.unique(row_languages):
        ids = np.flatnonzero(row_languages == language)
        count = min(len(ids), max(at_least, round(wanted * len(ids) / len(row_languages))))
        chosen.append(rng.choice(ids, size=count, replace=False))
    return np.sort(np.concatenate(chosen))


def cut_shards(
    row_languages: np.ndarray, names: Sequence[str], shards: int, sharding: str, seed: int
) -> list[np.ndarray]:
    """Global ids of each shard, sorted by language name, then id. Sizes differ by at most one."""
    by_name = np.argsort(np.argsort(np.asarray(names)))  # language number -> place of its name in the alphabet
    # Stable, so by id within a language. On 16 bits numpy's is a radix sort: 16 bytes a passage at its peak, 8 after it.
    order = np.argsort(by_name.astype(np.int16)[row_languages], kind="stable")
    if sharding == "random":
        lot = np.random.default_rng(seed).permutation(len(order))
        return [order[np.sort(part)] for part in np.array_split(lot, shards)]
    return np.array_split(order, shards)


def write_shard(
    index: Path,
    name: str,
    ids: np.ndarray,
    first_id: int,
    fragments: Fragments,
    trained: Any,
    codec: str,
    keys: Sequence[str],
) -> ShardEntry:
    """Write one shard's files. `ids` are ids of the fragments, sorted by language; global ids are those plus `first_id`."""
    folder = index / "shards" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flat = is_flat(codec)
    store = None if flat else np.lib.format.open_memmap(
        folder / "vectors.f16.npy", mode="w+", dtype=np.float16, shape=(len(ids), trained.d)
    )  # fmt: skip
    for start in range(0, len(ids), BLOCK):
        vectors = fragments.vectors(ids[start : start + BLOCK])
        trained.add(vectors)
        if store is not None:
            store[start : start + BLOCK] = vectors
    if store is not None:
        store.flush()
    faiss.write_index(trained, str(folder / "vectors.faiss"))
    np.save(folder / "ids.npy", ids.astype(np.int64) + first_id)
    write_passages(folder / "passages.arrow", fragments.passages(ids), keys)
    codes = fragments.row_languages()[ids]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    ends = np.append(starts[1:], len(codes))
    languages = {fragments.languages[codes[a]]: (int(a), int(b)) for a, b in zip(starts, ends, strict=True)}
    names = sorted(f"shards/{name}/{path.name}" for path in folder.iterdir())
    return ShardEntry(name=name, rows=len(ids), languages=languages, files=describe_files(index, names))


def recall_gate(
    shards: Sequence[Shard], *, target: float, sample: int, seed: int, nprobe: int | None = None
) -> tuple[int, dict[str, Any]]:
    """The smallest power of two as `nprobe` (or the one that is given) with which every language reaches `target`, and the
    manifest's `recall`: recall@10 of exact search by language, without filter and filtered to the language.

    Queries are `sample` passages of each language, each left out of its own answer. Leaves `nprobe` set in the shards.
    Raises InputError naming the languages that no nprobe brings to the target.
    """
    totals = shards[0].totals
    flat = is_flat(totals.codec)
    rng = np.random.default_rng(seed)
    queries, own, languages = [], [], []
    for language in sorted(totals.languages):
        rows = [(shard, row) for shard in shards for row in _sample_rows(shard, language, sample, rng)]
        for i in rng.choice(len(rows), size=min(sample, len(rows)), replace=False):
            shard, row = rows[i]
            queries.append(np.asarray(shard.vectors[row], dtype=np.float32))
            own.append(int(shard.ids[row]))
            languages.append(language)
    vectors = np.stack(queries)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    k = RECALL_K + 1  # the passage itself comes first
    unfiltered = [ShardQuery(k)] * len(languages)
    filtered = [ShardQuery(k, (language,)) for language in languages]

    def exact(asked: Sequence[ShardQuery]) -> list[list[int]]:
        best: list[list[int]] = [[]] * len(asked)
        for filter_ in {q.languages for q in asked}:
            members = [i for i, q in enumerate(asked) if q.languages == filter_]
            parts = [shard.scan(vectors[members], k, filter_, ()) for shard in shards]
            for j, i in enumerate(members):
                best[i] = _without(own[i], merge([part[j] for part in parts], k, lossy=False))
        return best

    def recall_of(asked: Sequence[ShardQuery], truth: Sequence[list[int]]) -> dict[str, float]:
        answers = [shard.search(vectors, asked) for shard in shards]
        shares: dict[str, list[float]] = {}
        for i, language in enumerate(languages):
            found = _without(own[i], merge([part[i] for part in answers], k, not flat))
            share = len(set(found) & set(truth[i])) / len(truth[i]) if truth[i] else 1.0
            shares.setdefault(language, []).append(share)
        return {language: round(float(np.mean(values)), 4) for language, values in shares.items()}

    truth, truth_filtered = exact(unfiltered), exact(filtered)
    lists = 0 if flat else shards[0].lists
    trials = [0] if flat else [nprobe] if nprobe is not None else _powers_of_two(lists)
    recall: dict[str, dict[str, float]] = {}
    for tried in trials:
        for shard in shards:
            shard.totals = replace(totals, nprobe=tried)
        recall = {"unfiltered": recall_of(unfiltered, truth)}
        if min(recall["unfiltered"].values()) >= target or tried == trials[-1]:
            recall["filtered"] = recall_of(filtered, truth_filtered)
            if min(recall["filtered"].values()) >= target:
                break
    low = sorted({x for values in recall.values() for x, value in values.items() if value < target})
    tried = shards[0].totals.nprobe
    if not low:
        return tried, {"k": RECALL_K, "target": target, "sampled": sample, **recall}
    shown = ", ".join(f"{x} {min(values[x] for values in recall.values()):.3f}" for x in low)
    raise InputError(
        f"recall@{RECALL_K} against exact search stays below index.recall_target={target} in: {shown} "
        f"(codec {totals.codec}, nprobe {tried} of {lists}); choose a finer index.codec (SQ8, Flat) or a lower target"
    )


def _powers_of_two(lists: int) -> list[int]:
    powers = [2**n for n in range(lists.bit_length()) if 2**n < lists]
    return [*powers, lists]


def _without(own: int, hits: Sequence[Hit]) -> list[int]:
    return [hit.global_id for hit in hits if hit.global_id != own][:RECALL_K]


def _sample_rows(shard: Shard, language: str, sample: int, rng: np.random.Generator) -> list[int]:
    start, end = shard.entry.languages.get(language, (0, 0))
    return (start + rng.choice(end - start, size=min(sample, end - start), replace=False)).tolist()


def open_shards(index: Path, manifest: Manifest, *, checksums: bool = True) -> list[Shard]:
    return [open_shard(index, manifest, n, checksums=checksums) for n in range(len(manifest.shards))]


def make_manifest(
    index: Path,
    *,
    space: dict[str, Any],
    probes: np.ndarray,
    codec: str,
    sharding: str,
    shards: Sequence[ShardEntry],
    keys: Sequence[str],
    rejected: dict[str, int],
    settings: dict[str, Any],
    nprobe: int = 0,
    recall: dict[str, Any] | None = None,
) -> Manifest:
    """The manifest of the files that are there; `publish` writes it."""
    languages: Counter[str] = Counter()
    for shard in shards:
        languages.update({name: end - start for name, (start, end) in shard.languages.items()})
    beside = [path for path in ("codec.faiss", "rejected.jsonl") if (index / path).is_file()]
    beside += sorted(str(path.relative_to(index)) for path in (index / "encoder").rglob("*") if path.is_file())
    return Manifest(
        format=FORMAT,
        index_version=version_of(space, codec, nprobe, list(shards)),
        space=space,
        probes=probes.astype(float).tolist(),
        codec=codec,
        nprobe=nprobe,
        sharding=sharding,
        languages=dict(sorted(languages.items())),
        metadata_keys=list(keys),
        shards=list(shards),
        files=describe_files(index, beside),
        recall=recall or {},
        rejected=rejected,
        settings=settings,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={"hybrid-ir": hybrid_ir.__version__, "faiss": faiss.__version__, "python": platform.python_version()},
    )


def publish(index: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all, in one step: before it there is no index, or the old one."""
    write_json(index / "manifest.json", manifest.model_dump(mode="json"))

"""The first stage of a build: passages are read, checked, and cut into fragments on disk, each to be encoded alone.

In: files of passages. Out: `INDEX/.build/fragments/`, a folder each of passages, languages and, once encoded, vectors,
with the pieces that they are of where long passages are cut.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hybrid_ir.index.passage_table import ROWS_PER_BATCH, PassageTable, passage_schema, write_passages
from hybrid_ir.index.passages import MAX_METADATA_KEYS, IndexedPassage, read_passages
from hybrid_ir.index.pieces.table import PIECES, runs, starts_of
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError, Rejected, key64

FRAGMENT_ROWS = 4096
FRAGMENT_CHARACTERS = 256 << 20
"""The most that the texts of a fragment, which is held in memory until it is full, may have together. That is 64 Ki
characters a passage; a column of Arrow ends at 2 GiB."""
KNOWN = "duplicate doc_id, which the index has: `hybrid-ir index replace` replaces its passage"


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

    def cut(self) -> dict[str, int]:
        """Passages of each language that were longer than the encoder reads, once all are encoded."""
        cut = np.concatenate([np.load(self.path(n) / "cut.npy") for n in range(len(self.counts))])
        counts = np.bincount(self.row_languages()[cut], minlength=len(self.languages)).tolist()
        return {name: count for name, count in sorted(zip(self.languages, counts, strict=True)) if count}

    @property
    def in_pieces(self) -> bool:
        """Whether passages may have several vectors, once all are encoded."""
        return (self.path(0) / PIECES).is_file()

    @property
    def n_vectors(self) -> int:
        """Vectors of all passages, once these are encoded."""
        if not self.in_pieces:
            return self.rows
        return sum(len(np.load(self.path(n) / PIECES, mmap_mode="r")) for n in range(len(self.counts)))

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """(vectors, D) float32 of the passages of the given global ids, in their order: one a passage, or all of its
        pieces'. Reads only the pages they are on."""
        assert int(ids.max()) < self.rows
        if self.in_pieces:
            return np.concatenate(
                [
                    np.asarray(np.load(self.path(number) / "vectors.npy", mmap_mode="r"))[self._pieces(number, rows)[0]]
                    for number, rows, _ in _runs(ids)
                ]
            )
        out: np.ndarray | None = None
        for number, rows, where in _runs(ids):
            stored = np.asarray(np.load(self.path(number) / "vectors.npy", mmap_mode="r"))
            if out is None:
                out = np.empty((len(ids), stored.shape[1]), dtype=np.float32)
            np.take(stored, rows, axis=0, out=out[where], mode="clip")  # "raise" would copy once more
        assert out is not None
        return out

    def pieces(self, ids: np.ndarray) -> np.ndarray:
        """(vectors, 3) int32 of the passages of the given global ids: the place of each among them, and the piece's
        first character and the character after its last."""
        parts = []
        for number, rows, where in _runs(ids):
            found, counts, table = self._pieces(number, rows)
            part = table[found]
            part[:, 0] = np.repeat(np.arange(where.start, where.stop), counts)
            parts.append(part)
        return np.concatenate(parts)

    def _pieces(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of these rows of a fragment: the numbers of their vectors, how many each has, and the fragment's table."""
        table = np.load(self.path(number) / PIECES)
        starts = starts_of(table[:, 0], self.counts[number])
        return runs(starts[rows], starts[rows + 1]), starts[rows + 1] - starts[rows], table

    def passages(self, ids: np.ndarray) -> Iterator[IndexedPassage]:
        """Passages of the given global ids, in their order."""
        table, opened = None, -1
        for number, row in zip((ids // FRAGMENT_ROWS).tolist(), (ids % FRAGMENT_ROWS).tolist(), strict=True):
            if number != opened:
                table, opened = PassageTable(self.path(number) / "passages.arrow"), number
            assert table is not None
            yield table[row]

    def copy_passages(self, ids: np.ndarray, keys: Sequence[str], path: Path) -> None:
        """Write the passages of the given global ids, in their order, to the file that `write_passages` would write of
        them. Column by column, which takes a fraction of its time."""
        schema = passage_schema(keys)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(ids), ROWS_PER_BATCH):
                parts = []
                for number, rows, _ in _runs(ids[start : start + ROWS_PER_BATCH]):
                    found = PassageTable(self.path(number) / "passages.arrow").take(rows)
                    absent = pa.nulls(len(rows), pa.string())  # a key that no passage of this fragment has
                    columns = [found[name] if name in found.column_names else absent for name in schema.names]
                    parts.append(pa.table(columns, schema=schema))
                (batch,) = pa.concat_tables(parts).combine_chunks().to_batches()
                writer.write_batch(batch)


def _runs(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, slice]]:
    """Fragment, rows of it, and place among the ids, of each run of global ids that are in one fragment."""
    numbers, rows = np.divmod(ids, FRAGMENT_ROWS)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield int(numbers[start]), rows[start:end], slice(start, end)


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
    characters = 0

    def flush() -> None:
        nonlocal characters
        folder = build / "fragments" / f"{len(counts):05d}"
        folder.mkdir(parents=True)
        write_passages(folder / "passages.arrow", waiting, sorted({k for p in waiting for k in p.metadata}))
        save_array(folder / "languages.npy", np.asarray([languages[p.language] for p in waiting], dtype=np.int16))
        counts.append(len(waiting))
        waiting.clear()
        characters = 0
        progress("passages", sum(counts))

    with (build / "rejected.jsonl").open("w", encoding="utf-8") as rejects:
        for path in paths:
            for item in read_passages(path):
                key = 0
                if isinstance(item, IndexedPassage):
                    key = key64(item.doc_id)
                    if key in seen:
                        item = Rejected(path, "duplicate doc_id", item.doc_id[:200])
                    elif known(item.doc_id):
                        item = Rejected(path, KNOWN, item.doc_id[:200])
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
                characters += len(item.text)
                if characters > FRAGMENT_CHARACTERS:
                    raise InputError(
                        f"{path}: the {len(waiting):,} passages up to {item.doc_id!r:.80} have more than "
                        f"{FRAGMENT_CHARACTERS:,} characters; an encoder reads the first few thousand of each, so cut "
                        "them into passages"
                    )
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
    """Write a .npy, then rename into place: a file that is there is whole. Raises OSError where it cannot be written.

    numpy's own `save` says nothing of a disk that is full under its last bytes: it writes through C's buffers.
    """
    partial = path.with_name(f".{path.name}.partial")
    array = np.ascontiguousarray(array)
    with partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)
    os.replace(partial, path)

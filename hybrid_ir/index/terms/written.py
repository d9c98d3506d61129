"""The words of a shard's passages, written when the shard is, and opened with it.

In: a shard's folder with its passages.arrow. Out: `terms.arrow` and `lengths.npy` beside it, and postings that are
views of them. Passages in pieces count as wholes.
"""

from __future__ import annotations

from pathlib import Path

from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.lexical import TERMS, Postings, make_postings, open_postings, write_postings


def write_terms(folder: Path) -> None:
    """Equal passages in equal rows give equal bytes: so those of a compacted shard are those of a fresh one."""
    batches = PassageTable(folder / "passages.arrow").column("text")
    write_postings(folder, make_postings(text for batch in batches for text in batch))


def open_terms(folder: Path, rows: int) -> Postings | None:
    """Those of the shard in this folder; None where it has none. Raises ValueError for files that hold something else
    than the words of so many passages, and OSError."""
    if not (folder / TERMS).is_file():
        return None
    postings = open_postings(folder)
    if len(postings.lengths) != rows:
        raise ValueError(f"{folder / TERMS} has the words of {len(postings.lengths)} passages, not of {rows}")
    return postings

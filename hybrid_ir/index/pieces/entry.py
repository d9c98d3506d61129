"""What an index's manifest says of the pieces of its passages, and what follows for a search.

In: how many passages have so many pieces. Out: how many pieces are surely of k passages.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PiecesOf(BaseModel):
    """How long passages were cut, and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    overlap: int
    """As `index.pieces` says."""
    vectors: int
    """Pieces of all passages that are not deleted."""
    most: int
    """Pieces of the passage that has the most."""
    long: dict[str, int]
    """Passages of each language that have several."""
    passages: dict[int, int] | None = None
    """By a number of pieces, the passages that have so many. None in an index that was written before this was
    counted."""

    @property
    def how(self) -> tuple[int, int]:
        return self.tokens, self.overlap

    def enough(self, wanted: int) -> int:
        """So many pieces, whichever they are, are of `wanted` passages at least: one more than those have that have the
        most, without the last of them. Where there are fewer passages, it is more than there are pieces.

        Were it `wanted` times the most, one book among a million letters would have a search visit every list.
        """
        enough, left = 1, wanted - 1
        for size, count in sorted((self.passages or {self.most: left}).items(), reverse=True):
            taken = min(left, count)
            enough, left = enough + size * taken, left - taken
        return enough + left

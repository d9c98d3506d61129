"""Which questions rank the passages of a language, and which may be negatives. In: words. Out: checked rules."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from hybrid_ir.types import InputError


@dataclass(frozen=True)
class Rules:
    """How a group's negatives in one language are found among the passages of that language. Raises InputError for
    values that cannot be meant.

    A passage is taken for a wrong answer only if each question that ranks it says so. With `below`=0.95 it has to score
    less than 95 % of what the group's answer in its language scores for the same question, of several answers the one
    that scores least: TopK-PercPos of NV-Retriever (arXiv 2407.15831, section 4), where 95 % did best. `margin` is a
    difference of cosines that it has to keep as well.
    """

    languages: str = "same"
    """Which of the group's questions rank the passages of a language: same = the one in that language, other = those in
    all other languages, any = all."""
    below: float | None = 0.95
    """None = no bound by the score, neither by this nor by `margin`: so BM25 is taken, whose hard negatives score more
    than the answer as often as not."""
    margin: float = 0.0
    first: int = 1
    """Best and last rank of a negative, counted from 1 without the passages that are known to answer the question."""
    last: int = 100
    negatives: int = 1
    """Most negatives of a group in one language: the best that the other rules allow."""

    def __post_init__(self) -> None:
        if self.languages not in ("same", "other", "any"):
            raise InputError(f"--languages must be same, other or any, got {self.languages!r}")
        if self.below is not None:
            _check_below("--below", self.below)
        if not 0 <= self.margin < 2:
            raise InputError(f"--margin is a difference of cosines: from 0 to less than 2, got {self.margin}")
        if not 1 <= self.first <= self.last <= 10_000:
            raise InputError(f"--ranks must be FIRST-LAST from 1 to 10000, such as 1-100, got {self.first}-{self.last}")
        if not 1 <= self.negatives <= self.last - self.first + 1:
            raise InputError(
                f"--negatives must be from 1 to the number of --ranks, which are {self.last - self.first + 1}, "
                f"got {self.negatives}"
            )

    def as_written(self) -> dict[str, Any]:
        """What the manifest says of them."""
        return asdict(self)


@dataclass(frozen=True)
class RerankerRule:
    """Which passages that the other rules allow a reranker takes for answers: they are no negatives. Raises InputError
    for values that cannot be meant.

    Both values are as those of `Rules`, of scores between 0 and 1: the sigmoid of what the model gives. As it comes,
    that has no scale which a share of it would mean something on.
    """

    below: float = 0.95
    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_below("--reranker-below", self.below)
        if not 0 <= self.margin < 1:
            raise InputError(
                f"--reranker-margin is a difference of scores between 0 and 1: from 0 to less than 1, got {self.margin}"
            )


def _check_below(option: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InputError(
            f"{option} must be above 0 and at most 1, got {value}; 1 takes all that scores less than the answer"
        )


def parse_ranks(words: str) -> tuple[int, int]:
    """ "10-100" -> (10, 100). Raises InputError for anything else."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", words)
    if not found:
        raise InputError(f"--ranks must be FIRST-LAST, such as 1-100, got {words!r}")
    return int(found[1]), int(found[2])

"""Where a group goes: the split of its document, the partition of its languages, its place in an order.

In: ids, language sets and a seed. Out: pure functions of these, which never depend on the order of the input.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from hybrid_ir.types import Group

Split = Literal["train", "validation", "test"]
Signature = tuple[tuple[str, ...], bool]
"""Languages of a group, sorted, and whether it has a hard negative in each of them."""

SMALL_PARTITION = 256
"""Groups below which a signature is folded into one with fewer languages, if that one keeps at least two."""


def assign_splits(
    documents: Iterable[tuple[str, Split | None]], seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, Split]:
    """Split of every (document, where it must go), from a hash of (seed, document).

    Of the free ones (None) the shares are exact, rounded to the nearest document.
    """
    split_of: dict[str, Split] = {}
    free = []
    for document, fixed in documents:
        if fixed is None:
            free.append(document)
        else:
            split_of[document] = fixed
    free.sort(key=lambda d: hashed_order(seed, "split", d))
    test, validation = round(test_fraction * len(free)), round(validation_fraction * len(free))
    for i, document in enumerate(free):
        split_of[document] = "test" if i < test else "validation" if i < test + validation else "train"
    return split_of


def signature_of(group: Group) -> Signature:
    return tuple(sorted(group.queries)), bool(group.negatives) and set(group.negatives) == set(group.queries)


def partition_signatures(counts: Counter[Signature]) -> dict[Signature, Signature]:
    """Partition of each signature that was seen: its own, or, for a rare one, the largest subset of its languages that
    another signature has (so that odd groups are used rather than stranded)."""
    target = {signature: signature for signature in counts}
    sizes = Counter(counts)
    for signature in sorted(counts, key=lambda s: (-len(s[0]), s)):
        if sizes[signature] >= SMALL_PARTITION:
            continue
        languages, negatives = signature
        fits = [
            s
            for s in sizes
            if s != signature
            and len(s[0]) >= 2
            and set(s[0]) <= set(languages)
            and (negatives or not s[1])
            and sizes[s] > 0
        ]
        if fits:
            best = max(fits, key=lambda s: (len(s[0]), s[1], sizes[s], s))
            sizes[best] += sizes.pop(signature)
            target = {s: best if t == signature else t for s, t in target.items()}
    return target


def hashed_order(seed: int, purpose: str, text: str) -> str:
    """A key to sort by. Another seed or purpose gives an order that has nothing to do with it."""
    return hashlib.blake2b(f"{seed}/{purpose}/{text}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

"""The batches of a plan are pinned: whatever makes it faster must not change which rows any step gets."""

from __future__ import annotations

import hashlib

import pytest

from hybrid_ir.batches.plan import Plan, make_plan
from hybrid_ir.data.store import Partition

LANGUAGES = (
    "ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh",
)  # fmt: skip
LARGE = (
    *(Partition(language, (language,), 1_300_000 + 77_777 * n) for n, language in enumerate(LANGUAGES)),
    *(Partition(f"en+{x}", ("en", x), 40_000 + 9_999 * n) for n, x in enumerate(LANGUAGES) if x != "en"),
    Partition("six", ("ar", "de", "en", "es", "fr", "zh"), 9_000_001),
    Partition("all", LANGUAGES, 50_000_000),
)
SMALL = (
    Partition("wide", ("ar", "de", "en", "es"), 1201),
    Partition("blocks", ("ar", "de", "en"), 10_239),
    Partition("narrow", ("de", "en"), 333),
    Partition("lone", ("ar",), 257),
)
ALL_KINDS = {"monolingual": 0.3, "cross_lingual": 0.3, "multilingual": 0.4}
HYBRID = {"monolingual": 0.5, "cross_lingual": 0.5}
FIRST = range(40)
"""Several epochs of the small partitions, none of the large ones."""
FAR = (0, 1, 997, 20_345, 97_656, 781_250, 1_562_499, 3_000_001, 2**31)

PLANS = {
    "small": (SMALL, {"weights": HYBRID}, [*range(300), *FAR]),
    "small, three kinds, by size": (SMALL, {"weights": ALL_KINDS, "language_temperature": 2.0}, [*range(300), *FAR]),
    "small, one pair a batch": (SMALL, {"weights": ALL_KINDS, "cross_lingual": "per_batch", "seed": 7}, range(300)),
    "large": (LARGE, {"weights": HYBRID, "batch_size": 64}, [*FIRST, *FAR]),
    "large, batches of 1024": (LARGE, {"weights": ALL_KINDS, "batch_size": 1024, "seed": 2**40 + 3}, [*range(6), *FAR]),
    "large, by size": (LARGE, {"weights": ALL_KINDS, "language_temperature": 1.0, "seed": 2**32 - 1}, [*FIRST, *FAR]),
    "large, some languages": (LARGE, {"weights": HYBRID, "languages": ("sw", "en", "yo")}, [*FIRST, *FAR]),
}
DIGESTS = {
    "small": "bc4eaf5ff8db33dd",
    "small, three kinds, by size": "51c5f86aa6f2383c",
    "small, one pair a batch": "7e405defaa89baac",
    "large": "86a0813a001ebf0c",
    "large, batches of 1024": "0000e578cbe24153",
    "large, by size": "ad5e2b07df6ddf5d",
    "large, some languages": "10daa9a3f78801c5",
}


def digest_of(plan: Plan, steps) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for step in steps:
        batch = plan.batch(step)
        rows = batch.partition_B.tolist(), batch.row_B.tolist()
        digest.update(repr((batch.step, batch.kind, batch.pairs, *rows)).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("name", PLANS)
def test_the_batches_are_the_pinned_ones(name):
    partitions, more, steps = PLANS[name]
    plan = make_plan(partitions, **{"batch_size": 16, "seed": 0, **more})
    assert digest_of(plan, steps) == DIGESTS[name]

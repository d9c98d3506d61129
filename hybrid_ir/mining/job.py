"""Mining from end to end: encode the training split, rank its passages for its questions, choose, write the new store.

In: a store, an encoder, rules. Out: a store beside it whose groups have hard negatives in each of their languages,
where some were found. The old store stays as it is, and the new one appears whole or not at all.

Memory, apart from the encoder: some 60 bytes a text, `WINDOW` texts with their vectors, and the scores of `BLOCK`
questions with `CHUNK` passages. Vectors are in files beside the new store, 4 bytes a dimension of each text.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.data import Store, refuse_existing, staged
from hybrid_ir.mining.choice import OUTCOMES, choose
from hybrid_ir.mining.nearest import CHUNK, nearest
from hybrid_ir.mining.new_store import passages_of, write_with_negatives
from hybrid_ir.mining.pool import Pool, read_pool
from hybrid_ir.mining.rules import Rules
from hybrid_ir.mining.scratch import Encode, LanguageScratch, encode_pool
from hybrid_ir.types import InputError, Passage

BLOCK = 512  # groups whose questions are ranked at a time
SPARE = 8
"""Passages kept of each question beyond the last rank. A sum of products comes out a last bit higher or lower by what
is computed beside it: this many may change places with the last one before the exact scores are compared."""
Progress = Callable[[str, int], None]


def mine_negatives(
    store: Store,
    out: str,
    encode: Encode,
    rules: Rules,
    *,
    replace: bool = False,
    made: Mapping[str, Any],
    device: str = "cpu",
    progress: Progress = lambda stage, done: None,
    block: int = BLOCK,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """Write the store with mined negatives to `out`, and return its manifest; `mined` in it says what was done.

    `encode` gives unit vectors; `made` is what the manifest says of it. Groups that have negatives keep them unless
    `replace`. `device` is where scores are computed. Neither `block` nor `chunk` changes what is found. Raises
    InputError where `out` exists, where there is nothing to mine for, and where no group gets a negative in each of its
    languages: nothing is written then.
    """
    refuse_existing(out)
    if not store.partitions:
        raise InputError(f"the store {store.path} has no groups to train on, so there is nothing to mine from")
    kept = [partition.negatives and not replace for partition in store.partitions]
    if all(kept):
        raise InputError(
            f"all groups of {store.path} that can be trained on have negatives; --replace finds others for them"
        )
    # Beside a local store, where there is room; what a killed process leaves there is removed by the next.
    with (
        staged(out) as (root, folder),
        tempfile.TemporaryDirectory(prefix="hybrid-ir-mine-", dir=None if folder else root) as scratch_folder,
    ):
        pool = read_pool(store, progress)
        scratch = encode_pool(pool, encode, Path(scratch_folder))
        chosen: dict[str, np.ndarray] = {}
        outcomes: dict[str, dict[str, int]] = {}
        done = 0
        for language in pool.languages:
            negative_QM, outcome_Q = _mine_language(
                pool, scratch, language, rules, np.array(kept), device, block, chunk,
                lambda more, before=done: progress("groups ranked for", before + more),
            )  # fmt: skip
            done += len(negative_QM)
            chosen[language] = negative_QM
            counts = np.bincount(outcome_Q, minlength=len(OUTCOMES)).tolist()
            outcomes[language] = dict(zip(OUTCOMES, counts, strict=True))
        complete = _complete(pool, chosen, kept)
        if not complete["mined"]:
            total = sum((Counter(counts) for counts in outcomes.values()), Counter())
            found = ", ".join(f"{OUTCOMES[name]}: {n:,}" for name, n in total.most_common())
            raise InputError(
                f"no group got a negative in each of its languages ({found}); nothing was written. Raise --below, "
                "lower --margin, or widen --ranks"
            )
        mined = {"from": store.content_hash, **made, **rules.as_written(), "replace": replace}
        return write_with_negatives(
            store,
            root,
            folder,
            lambda number, rows: _negatives(pool, scratch, chosen, kept[number], number, rows),
            {**mined, "groups": complete, "outcomes": outcomes},
            progress,
        )


def _mine_language(
    pool: Pool,
    scratch: Mapping[str, LanguageScratch],
    language: str,
    rules: Rules,
    kept: np.ndarray,
    device: str,
    block: int,
    chunk: int,
    progress: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, most negatives) the passages of this language that are each group's negatives, -1 behind them, and (Q,) the
    place in `OUTCOMES` of what became of it."""
    part, passages_PD = pool.languages[language], scratch[language].passages_PD
    answers = pool.answers_to(language)
    partition_Q = np.searchsorted(pool.start, part.group_Q, side="right") - 1
    negative_QM = np.full((len(part.group_Q), rules.negatives), -1)
    outcome_Q = np.full(len(part.group_Q), list(OUTCOMES).index("kept"))
    wanted = np.flatnonzero(~kept[partition_Q])
    ranking = {"same": [language], "any": list(pool.languages)}.get(
        rules.languages, [x for x in pool.languages if x != language]
    )
    for start in range(0, len(wanted), block):
        places = wanted[start : start + block]
        group_G = part.group_Q[places]
        answers_GP = answers[pool.asks_G[group_G]]
        shape = (len(places), max(1, len(ranking)))
        asked_GA = np.zeros(shape, bool)
        questions_GAD = np.zeros((*shape, passages_PD.shape[1]), np.float32)
        found_GAK = np.full((*shape, rules.last + SPARE), -1)
        for a, other in enumerate(ranking):
            here, rows = _questions_of(pool, other, group_G)
            if not len(here):
                continue
            asked_GA[here, a] = True
            questions_GAD[here, a] = scratch[other].questions_QD[rows]
            found_GAK[here, a] = nearest(
                questions_GAD[here, a], passages_PD, answers_GP[here], found_GAK.shape[2], device=device, chunk=chunk
            )
        negative_QM[places], outcome_Q[places] = choose(
            questions_GAD, asked_GA, passages_PD[part.answers_GS(places)], found_GAK, passages_PD, rules
        )
        progress(start + len(places))
    return negative_QM, outcome_Q


def _questions_of(pool: Pool, language: str, group_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of these groups have a question in a language, and which it is among those of the language."""
    group_Q = pool.languages[language].group_Q
    rows = np.minimum(np.searchsorted(group_Q, group_G), len(group_Q) - 1)
    here = np.flatnonzero(group_Q[rows] == group_G)
    return here, rows[here]


def _complete(pool: Pool, chosen: Mapping[str, np.ndarray], kept: list[bool]) -> dict[str, int]:
    """How many groups have mined negatives in each of their languages, kept theirs, and have none."""
    lacking_G = np.zeros(pool.start[-1], bool)
    for language, negative_QM in chosen.items():
        lacking_G[pool.languages[language].group_Q[negative_QM[:, 0] < 0]] = True
    kept_G = np.repeat(kept, np.diff(pool.start))
    mined, stayed = int((~lacking_G & ~kept_G).sum()), int(kept_G.sum())
    return {"mined": mined, "kept": stayed, "without": len(lacking_G) - mined - stayed}


def _negatives(
    pool: Pool,
    scratch: Mapping[str, LanguageScratch],
    chosen: Mapping[str, np.ndarray],
    kept: bool,
    number: int,
    rows: np.ndarray,
) -> Iterator[dict[str, tuple[Passage, ...]]]:
    """The negatives of rows of a partition, by language."""
    by_language: dict[str, list[tuple[Passage, ...]]] = {}
    for language in pool.store.partitions[number].languages:
        if kept:
            by_language[language] = passages_of(pool.store, number, rows, language, "n")
            continue
        _, places = _questions_of(pool, language, pool.start[number] + rows)
        passages = scratch[language].passages
        by_language[language] = [tuple(passages[n] for n in row if n >= 0) for row in chosen[language][places].tolist()]
    for i in range(len(rows)):
        yield {language: found for language, of in by_language.items() if (found := of[i])}

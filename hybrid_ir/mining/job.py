"""Mining from end to end: encode the training split, rank its passages for its questions, choose, write the new store.

In: a store, an encoder, rules; a corpus and a reranker where there are some. Out: a store beside it whose groups have
hard negatives in each of their languages, where some were found. The old store stays as it is, and the new one appears
whole or not at all.

Encoding and ranking go in units that depend on the texts and settings alone (`scratch.Window`, `ranking.Block`), one
after the other in this process or on the actors of a Ray Data job. So negatives do not depend on how many there are.

Memory, apart from the encoder: some 60 bytes a text, `WINDOW` texts with their vectors, and the scores of `BLOCK`
questions with `CHUNK` passages. Vectors are in files beside the new store, 4 bytes a dimension of each text.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hybrid_ir.data import Store, refuse_existing, staged
from hybrid_ir.mining.by_words import ByWords, CountWords
from hybrid_ir.mining.choice import OUTCOMES
from hybrid_ir.mining.corpus import read_corpus
from hybrid_ir.mining.nearest import CHUNK, ByVectors
from hybrid_ir.mining.new_store import passages_of, write_with_negatives
from hybrid_ir.mining.pool import Pool, read_pool
from hybrid_ir.mining.ranking import Block, Finder, RankBlock
from hybrid_ir.mining.reranked import Reranking
from hybrid_ir.mining.rules import Rules
from hybrid_ir.mining.scratch import Encode, EncodeWindow, LanguageScratch, gather_passages, windows_of
from hybrid_ir.types import InputError, Passage

BLOCK = 512  # groups whose questions are ranked at a time
Progress = Callable[[str, int], None]
Run = Callable[[Callable[[int], Any], int], Iterator[Any]]
"""A stage, the number of its units -> what the stage makes of each unit, in any order."""


def run_here(stage: Callable[[int], Any], units: int) -> Iterator[Any]:
    """In this process, one after the other."""
    return map(stage, range(units))


class LoadedWhereItRuns:
    """A function that each process which calls it loads for itself, when it is called first: an encoder, a reranker."""

    def __init__(self, load: Callable[[], Callable[..., Any]]) -> None:
        self._load, self._loaded = load, None

    def __reduce__(self):
        return LoadedWhereItRuns, (self._load,)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded(*arguments, **more)


class CorpusFiles(NamedTuple):
    """Where a corpus is, and which key of its metadata passages share that are translations of each other."""

    paths: Sequence[str]
    group_by: str | None = None


def mine_negatives(
    store: Store,
    out: str,
    encode: Encode | None,
    rules: Rules,
    *,
    corpus: CorpusFiles | None = None,
    reranking: Reranking | None = None,
    replace: bool = False,
    made: Mapping[str, Any],
    tasks: Mapping[str, str] | None = None,
    device: str = "cpu",
    workers: Callable[[], AbstractContextManager[Run]] = lambda: nullcontext(run_here),
    progress: Progress = lambda stage, done: None,
    block: int = BLOCK,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """Write the store with mined negatives to `out`, and return its manifest; `mined` in it says what was done.

    `encode` gives unit vectors; None = by BM25. `made` is what the manifest says of who ranks. `tasks` are those
    that the encoder's questions are of, by their source (`batch.tasks`). Negatives are the store's passages, and those
    of the `corpus`. `reranking` refuses some of what the rules allow. Groups that have negatives keep them unless
    `replace`. `device` is where scores are computed. `workers` gives what runs the units of
    the work, which are sent to other processes together with `encode` and `reranking` where those do it. Neither they
    nor `block` nor `chunk` change what is found.

    Raises InputError where `out` exists, where there is nothing to mine for, for a corpus that cannot be read, and
    where no group gets a negative in each of its languages: nothing is written then.
    """
    refuse_existing(out)
    if encode is None and (rules.languages != "same" or rules.margin):
        raise InputError(
            "BM25 ranks the passages of a question's own language, since others have other words, and by no cosine: "
            "with --bm25 leave out --languages and --margin, or take an encoder with --checkpoint"
        )
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
        tempfile.TemporaryDirectory(
            prefix="hybrid-ir-mine-", dir=None if folder else root, ignore_cleanup_errors=True
        ) as scratch_folder,
    ):
        here = Path(scratch_folder)
        found = None if corpus is None else read_corpus(corpus.paths, store, here, corpus.group_by, progress)
        pool = read_pool(store, found, progress)
        scratch = gather_passages(pool, found, here, progress)
        with workers() as run:
            finder = _finder(pool, scratch, encode, tasks or {}, device, chunk, run, progress)
            chosen, outcomes, asked = _rank(pool, scratch, kept, rules, finder, reranking, run, progress, block)
            del finder  # which maps files of the folder
        complete = _complete(pool, chosen, kept)
        if not complete["mined"]:
            total = sum((Counter(counts) for counts in outcomes.values()), Counter())
            said = ", ".join(f"{OUTCOMES[name]}: {n:,}" for name, n in total.most_common())
            raise InputError(
                f"no group got a negative in each of its languages ({said}); nothing was written. Raise --below, "
                "lower --margin, or widen --ranks" + ("" if reranking is None else "; or raise --reranker-below")
            )
        mined = {"from": store.content_hash, **made, **rules.as_written(), "replace": replace}
        if tasks and encode is not None:
            mined["tasks"] = dict(tasks)
        if corpus is not None and found is not None:
            mined["corpus"] = {
                "paths": list(corpus.paths),
                "group_by": corpus.group_by,
                **found.as_written(),
                "negatives": _from_corpus(pool, chosen),
            }
        if reranking is not None:
            mined["reranker"] = {**reranking.made, **asdict(reranking.rule), **asked}
        manifest = write_with_negatives(
            store,
            root,
            folder,
            lambda number, rows: _negatives(pool, scratch, chosen, kept[number], number, rows),
            {**mined, "groups": complete, "outcomes": outcomes},
            progress,
            also={} if found is None else {"rejected_of_corpus.jsonl": found.rejects},
        )
        # NFS keeps a name for a deleted file that is still mapped, and the folder with it. Vectors are let go by now.
        for part in scratch.values():
            part.file.close()
        return manifest


def _finder(
    pool: Pool,
    scratch: Mapping[str, LanguageScratch],
    encode: Encode | None,
    tasks: Mapping[str, str],
    device: str,
    chunk: int,
    run: Run,
    progress: Progress,
) -> Finder:
    """Encode all texts, or count their words."""
    done = 0
    if encode is None:
        for texts in run(CountWords(scratch), len(scratch)):
            done += texts
            progress("texts counted", done)
        return ByWords(scratch)
    windows, widths = windows_of(scratch), set()
    for texts, width in run(EncodeWindow(pool, scratch, windows, encode, tasks), len(windows)):
        done += texts
        progress("texts encoded", done)
        widths.add(width)
    (dimensions,) = widths  # one encoder made them all
    return ByVectors(scratch, dimensions, device, chunk)


def _rank(
    pool: Pool,
    scratch: Mapping[str, LanguageScratch],
    kept: list[bool],
    rules: Rules,
    finder: Finder,
    reranking: Reranking | None,
    run: Run,
    progress: Progress,
    block: int,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]], dict[str, int]]:
    """By language (Q, most negatives) the passages that are each group's negatives, -1 behind them; what became of how
    many groups; and how many pairs a reranker was asked about, and passages refused for."""
    chosen, outcome, blocks = {}, {}, []
    for language, part in pool.languages.items():
        partition_Q = np.searchsorted(pool.start, part.group_Q, side="right") - 1
        chosen[language] = np.full((len(part.group_Q), rules.negatives), -1)
        outcome[language] = np.full(len(part.group_Q), list(OUTCOMES).index("kept"))
        wanted = np.flatnonzero(~np.array(kept)[partition_Q])
        blocks += [Block(language, wanted[start : start + block]) for start in range(0, len(wanted), block)]
    stage = RankBlock(pool, scratch, blocks, rules, finder, reranking)
    asked, done = Counter({"pairs": 0, "refused": 0}), 0
    for ranked in run(stage, len(blocks)):
        language, places = blocks[ranked.number]
        chosen[language][places], outcome[language][places] = ranked.negative_QM, ranked.outcome_Q
        asked.update(ranked.asked._asdict())
        done += len(places)
        progress("groups ranked for", done)
    outcomes = {}
    for language, outcome_Q in outcome.items():
        counts = np.bincount(outcome_Q, minlength=len(OUTCOMES)).tolist()
        outcomes[language] = dict(zip(OUTCOMES, counts, strict=True))
    return chosen, outcomes, dict(asked)


def _from_corpus(pool: Pool, chosen: Mapping[str, np.ndarray]) -> int:
    """How many negatives are passages of the corpus alone."""
    return sum(int((numbers >= pool.languages[language].stored).sum()) for language, numbers in chosen.items())


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
        _, places = pool.questions_of(language, pool.start[number] + rows)
        passage = scratch[language].passage
        by_language[language] = [tuple(passage(n) for n in row if n >= 0) for row in chosen[language][places].tolist()]
    for i in range(len(rows)):
        yield {language: found for language, of in by_language.items() if (found := of[i])}

"""The recall gate: an index is published when every language finds what exact search finds.

In: shards that are written. Out: the number of lists to visit and recall by language, in the manifest that is
published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.config import Index
from hybrid_ir.index.folder import Manifest
from hybrid_ir.index.query import Hit, ShardQuery, is_flat, merge
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.terms.counts import count_words
from hybrid_ir.index.writing import count_lists, make_manifest, open_shards, publish
from hybrid_ir.lexical import RULE
from hybrid_ir.types import InputError

RECALL_K = 10


def gate_and_publish(
    index: Path,
    settings: Index,
    seed: int,
    *,
    settings_shown: dict[str, Any],
    progress: Callable[[str, int], None],
    rule: int = RULE,
    **parts: Any,
) -> Manifest:
    """Measure recall, then publish the manifest of these `parts` (see `make_manifest`). `rule` is that of the
    words of its shards. Raises InputError where recall is below `settings.recall_target`, and for damaged words: then
    nothing is published."""
    shown = {**settings_shown, **settings.model_dump(mode="json")}
    lexical, counted = count_words(index, parts["shards"], rule)
    draft = make_manifest(index, settings=shown, lexical=lexical, **parts)
    progress("measuring recall", 0)
    shards = open_shards(index, draft, checksums=False)
    lists = count_lists(index, shards)
    nprobe, recall = recall_gate(shards, target=settings.recall_target, sample=settings.recall_sample, seed=seed)
    parts["files"] = draft.files | lists | counted
    return publish(index, make_manifest(index, settings=shown, nprobe=nprobe, recall=recall, lexical=lexical, **parts))


def recall_gate(
    shards: Sequence[Shard], *, target: float, sample: int, seed: int, nprobe: int | None = None
) -> tuple[int, dict[str, Any]]:
    """The smallest power of two as `nprobe` (or the one that is given) with which every language reaches `target`,
    and the manifest's `recall`: recall@10 of exact search by language, without filter and filtered to the language.

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
            queries.append(np.asarray(shard.vectors[shard.first(row)], dtype=np.float32))
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
            parts = [shard.scan(vectors[members], k, filter_, None) for shard in shards]
            for j, i in enumerate(members):
                best[i] = _without(own[i], merge([part[j] for part in parts], k, lossy=False))
        return best

    def recall_of(asked: Sequence[ShardQuery], truth: Sequence[list[int]]) -> dict[str, float]:
        answers = [shard.search(vectors, asked) for shard in shards]
        shares: dict[str, list[float]] = {}
        for i, language in enumerate(languages):
            found = _without(own[i], merge([part[i] for part in answers], k, not flat, None, totals.candidates))
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
        f"(codec {totals.codec}, nprobe {tried} of {lists}, index.candidates={totals.candidates}); choose more "
        "index.candidates, a finer index.codec (SQ8, Flat) or a lower target"
    )


def _powers_of_two(lists: int) -> list[int]:
    powers = [2**n for n in range(lists.bit_length()) if 2**n < lists]
    return [*powers, lists]


def _without(own: int, hits: Sequence[Hit]) -> list[int]:
    return [hit.global_id for hit in hits if hit.global_id != own][:RECALL_K]


def _sample_rows(shard: Shard, language: str, sample: int, rng: np.random.Generator) -> list[int]:
    start, end = shard.entry.languages.get(language, (0, 0))
    if shard.living is None:
        return (start + rng.choice(end - start, size=min(sample, end - start), replace=False)).tolist()
    rows = start + np.flatnonzero(shard.living[start:end])
    return rng.choice(rows, size=min(sample, len(rows)), replace=False).tolist()

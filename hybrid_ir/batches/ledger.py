"""The ledger: what a training asked of its mix, and what it got. In: a plan, a run's progress. Out: a dict. Pure."""

from __future__ import annotations

from typing import Any

from hybrid_ir.batches.plan import Plan


def make_ledger(plan: Plan, progress: dict[str, Any]) -> dict[str, Any]:
    """Asked and realised shares: kinds as shares of batches, pairs and sources as shares of all rows.

    `progress` is of a `checkpoint.Progress`: steps done, batches of each kind, rows of each pair and of each source,
    texts that were cut. `sources` is there where these have a part in the mix.
    """
    asked = plan.asked()
    batches = max(sum(progress["kinds"].values()), 1)
    rows = batches * plan.batch_size
    kinds, pairs = {}, {}
    for kind, shares in asked.items():
        realised = progress["pairs"].get(kind, {})
        count = progress["kinds"].get(kind, 0)
        kinds[kind] = {"asked": sum(shares.values()), "realised": count / batches, "batches": count}
        pairs[kind] = {
            name: {"asked": share, "realised": realised.get(name, 0) / rows, "rows": realised.get(name, 0)}
            for name, share in zip(map("-".join, shares), shares.values(), strict=True)
        }
    sources = {
        kind: {
            name: {"asked": share, "realised": rows_of.get(name, 0) / rows, "rows": rows_of.get(name, 0)}
            for name, share in shares.items()
        }
        for kind, shares in plan.asked_sources().items()
        for rows_of in [progress["sources"].get(kind, {})]
    }
    return {
        "steps": progress["done"],
        "batch_size": plan.batch_size,
        "kinds": kinds,
        "pairs": pairs,
        **({"sources": sources} if sources else {}),
        "epochs": plan.epochs(progress["done"]),
        "texts": {
            language: {"trained_on": texts, "cut": cut, "share_cut": cut / texts}
            for language, (texts, cut) in sorted(progress["texts"].items())
        },
        "unused_partitions": [
            {"name": p.name, "languages": list(p.languages), "rows": p.rows}
            | ({"source": p.source} if p.source else {})
            for p in plan.unused
        ],
    }

"""What a finished run leaves. In: its last checkpoint. Out: RUN/ledger.json, RUN/checkpoint/ and RUN/metrics.json."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hybrid_ir.batches import Plan, make_ledger
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import load_encoder, model_card
from hybrid_ir.storage import replace_folder, write_json
from hybrid_ir.training.checkpoint import Progress


def publish(
    experiment: Experiment,
    encoder: dict[str, Any],
    store: Store,
    plan: Plan,
    run: Path,
    progress: Progress,
    checkpoint: Path,
) -> dict[str, Any]:
    """Write all of it, the encoder in one move, metrics last. `checkpoint` has the encoder, and is removed."""
    ledger = make_ledger(plan, vars(progress))
    write_json(run / "ledger.json", ledger)
    kept = checkpoint / "encoder"
    seconds = max(progress.seconds, 1e-9)
    metrics = {
        "validation": progress.best,
        "best_step": progress.best_step or progress.done,
        "steps": progress.done,
        "batches_hash": progress.batches_hash,
        "loss": progress.loss,
        "pairs_per_s": progress.done * plan.batch_size / seconds,
        "input_wait": progress.waited_s / seconds,
        "seconds": progress.seconds,
        "startup_s": progress.startup_s,
        "peak_memory_mb": progress.peak_memory_mb,
        "precision": progress.precision,
        "share_cut": {language: cut / texts for language, (texts, cut) in sorted(progress.texts.items())},
    }
    card = model_card(
        name=run.name,
        base=experiment.encoder.name,
        languages=sorted({x for pairs in plan.asked().values() for pair in pairs for x in pair}),
        store=store.manifest,
        ledger=ledger,
        settings=experiment.model_dump(mode="json"),
        encoder=encoder,
        metrics=metrics,
        dimension=load_encoder(str(kept)).get_embedding_dimension() or 0,
    )
    (kept / "README.md").write_text(card, encoding="utf-8")
    replace_folder(kept, run / "checkpoint")
    shutil.rmtree(checkpoint, ignore_errors=True)
    write_json(run / "metrics.json", metrics)
    return metrics

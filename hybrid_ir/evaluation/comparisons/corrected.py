"""What a language correction changes. In: an encoder, its correction, a test. Out: measures before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sentence_transformers import SentenceTransformer

from hybrid_ir.config import Experiment
from hybrid_ir.encoders import Correction
from hybrid_ir.evaluation.averages import evaluate_collection
from hybrid_ir.evaluation.evaluator import encoder_of
from hybrid_ir.types import Collection, InputError


def measure_correction(
    model: SentenceTransformer,
    correction: Correction,
    test: Collection,
    experiment: Experiment,
    progress: Callable[[int], None] = lambda texts: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`evaluate_collection`'s summaries of the encoder as it is, and with the correction. Texts are encoded once."""
    run = encoder_of(model, experiment, progress)
    queries = run([q.text for q in test.queries], role="query", languages=[q.language for q in test.queries])
    of_candidates = [c.language for c in test.candidates]
    candidates = run([c.text for c in test.candidates], role="document", languages=of_candidates)
    chance: dict[str, Any] = {"seed": experiment.seed, "resamples": experiment.evaluate.bootstrap_rounds}
    before = evaluate_collection(test.queries, test.candidates, queries, candidates, **chance)
    after = evaluate_collection(test.queries, test.candidates, correction(queries), correction(candidates), **chance)
    return before.summary, after.summary


def own_language(summary: Mapping[str, Any]) -> dict[str, float]:
    """AP of each language's queries among its own passages."""
    return {x: row[x] for x, row in summary["matrix"].items() if row.get(x) is not None}


def refuse_loss(before: Mapping[str, Any], after: Mapping[str, Any], most: float) -> None:
    """Raise InputError where a language loses more than `most` of the AP among its own passages, or the common pool
    gains nothing."""
    old, new = own_language(before), own_language(after)
    lost = {x: old[x] - new[x] for x in old if old[x] - new[x] > most}
    if lost:
        named = ", ".join(f"{x} {old[x]:.3f} -> {new[x]:.3f}" for x in lost)
        raise InputError(
            f"the correction costs more than {most:g} of AP among a language's own passages: {named}; nothing was "
            "written: give more texts, leave languages out, or allow more with --max-loss"
        )
    if after["AP_multi"] <= before["AP_multi"]:
        raise InputError(
            f"the correction does not help: AP_multi is {before['AP_multi']:.3f} without it and "
            f"{after['AP_multi']:.3f} with it; nothing was written: this encoder's languages lie together already"
        )

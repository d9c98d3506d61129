"""What a study measures beyond its sweep's test. In: a trained encoder and a test. Out: numbers by name.

A function a study: all work on the held-out test split of the store, so that the toy form needs no further data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.config import Experiment, Index
from hybrid_ir.data import cldr_lexicon, lareqa_collection, open_store
from hybrid_ir.encoders import load_encoder
from hybrid_ir.evaluation import (
    LAREQA,
    PERTURBATIONS,
    averages_of,
    encoder_of,
    evaluate,
    evaluate_collection,
    load_test,
    measure_run,
    nearest_is_own,
    perturb,
)
from hybrid_ir.measure_names import PRECISIONS
from hybrid_ir.storage import write_json
from hybrid_ir.training import use_encoding_threads
from hybrid_ir.tuning.points import trial_experiment
from hybrid_ir.tuning.studies.study import Study
from hybrid_ir.types import Collection, InputError

Values = dict[str, float]
PERTURBED_WORDS = 0.3  # share of a query's words that typos and code-switching change


def clean_and_perturbed(model: Any, tests: Collection, experiment: Experiment) -> Values:
    """`{perturbation}/{measure}` for the queries as they are (`clean`) and under each perturbation."""
    run = encoder_of(model, experiment)
    of_passages = [c.language for c in tests.candidates]
    passages = run([c.text for c in tests.candidates], role="document", languages=of_passages)
    texts, languages = [q.text for q in tests.queries], [q.language for q in tests.queries]
    lexicon = cldr_lexicon(tests.languages)
    values: Values = {}
    for kind in ("clean", *PERTURBATIONS):
        asked = texts
        if kind != "clean":
            asked = perturb(texts, languages, kind, seed=experiment.seed, rate=PERTURBED_WORDS, lexicon=lexicon)
        queries = run(asked, role="query", languages=languages)
        summary = evaluate_collection(tests.queries, tests.candidates, queries, passages, resamples=0).summary
        values |= {f"{kind}/{name}": summary[name] for name in PRECISIONS}
        values[f"{kind}/changed"] = float(np.mean([a != b for a, b in zip(asked, texts, strict=True)]))
    return values


def within_each_language(model: Any, tests: Collection, experiment: Experiment) -> Values:
    """nDCG@10 and R@100 (`ir_measures`) with queries and passages of one language: means over languages."""
    measures = ("nDCG@10", "R@100")
    run = encoder_of(model, experiment)
    found: dict[str, list[float]] = {name: [] for name in measures}
    for language in tests.languages:
        queries = [q for q in tests.queries if q.language == language]
        passages = [c for c in tests.candidates if c.language == language]
        asked, there = [q.text for q in queries], [c.text for c in passages]
        vectors = run(there, role="document", languages=language)
        scores = run(asked, role="query", languages=language) @ vectors.T
        relevant: dict[str, dict[str, int]] = {}
        for passage in passages:
            for group_id in passage.group_ids:
                relevant.setdefault(group_id, {})[passage.doc_id] = 1
        qrels = {q.query_id: relevant[q.group_id] for q in queries if q.group_id in relevant}
        ranked = {
            q.query_id: {passages[j].doc_id: float(row[j]) for j in np.argsort(-row)[:1000]}
            for q, row in zip(queries, scores, strict=True)
            if q.query_id in qrels
        }
        for name, values in measure_run(qrels, ranked, measures).items():
            found[name].append(float(values.mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def translation_search(model: Any, tests: Collection, experiment: Experiment) -> Values:
    """Accuracy of finding an English question by its translation and back, as Tatoeba's: mean over languages."""
    run = encoder_of(model, experiment)
    by_language: dict[str, dict[str, str]] = {}
    for query in tests.queries:
        by_language.setdefault(query.language, {})[query.group_id] = query.text
    english = by_language.pop("en", {})
    to_english, back = [], []
    for language, texts in by_language.items():
        common = sorted(texts.keys() & english.keys())
        # Several questions of a test may ask for facts that read alike in one language: each must be found by itself.
        a = run([texts[group] for group in common], role="query", languages=language)
        b = run([english[group] for group in common], role="query", languages="en")
        to_english.append(float(nearest_is_own(a, b).mean()))
        back.append(float(nearest_is_own(b, a).mean()))
    return {"accuracy_to_en": float(np.mean(to_english)), "accuracy_from_en": float(np.mean(back))} if back else {}


Probe = Callable[[Any, Collection, Experiment], Values]
PROBES: Mapping[str, Probe] = {  # of the studies that have one
    "model_choice": translation_search,
    "model_size": within_each_language,
    "robustness": clean_and_perturbed,
}


def probe_trial(study: Study, row: Mapping[str, Any], out: Path) -> Values:
    """Probe the checkpoint of a complete trial and evaluate it on the study's collections; what is on disk is read.

    Measures of a collection are named `{collection}/{measure}`. Writes probe.json and COLLECTION/ to trials/NAME/.
    """
    run = out / "trials" / row["trial"]
    done = run / "probe.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    experiment = trial_experiment(study.experiment, row["point"], row["seed"])
    use_encoding_threads(experiment)
    model = load_encoder(str(run / "checkpoint"), device="cuda" if experiment.train.gpus_per_worker else "cpu")
    values: Values = {}
    if study.name in PROBES:
        values |= PROBES[study.name](model, _tests(study), experiment)
    for each in study.collections:
        name = each.collection
        test = load_test(name, each.path, split=each.split, languages=each.languages, corpus=each.corpus)
        plain = experiment.model_copy(update={"index": Index()})  # passages are measured as they are
        summary = evaluate(model, str(run / "checkpoint"), test, run / name, plain)
        averages = averages_of(summary).items()
        values |= {f"{name}/{measure}": value for measure, value in averages if value is not None}
    write_json(done, values)
    return values


def _tests(study: Study) -> Collection:
    """What probes ask: the store's test split, or else the study's first LAReQA benchmark."""
    store = open_store(study.experiment.store)
    if store.manifest["eval"].get("test"):
        return store.collection("test")
    for each in study.collections:
        if each.collection in LAREQA:
            return lareqa_collection(each.path, each.collection, each.languages)
    raise InputError(
        f"{study.name} has nothing to probe with: prepare with test_fraction above 0, or name a collection"
    )


def mean_values(values: Sequence[Mapping[str, float]]) -> Values:
    """Mean over trials of each number."""
    return {key: float(np.mean([each[key] for each in values])) for key in (values[0] if values else {})}

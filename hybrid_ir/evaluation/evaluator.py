"""Evaluate: a checkpoint and a test in; `metrics.json`, `per_query.parquet` and `report.html` out.

A test is a collection, in which all candidates are ranked for every query, or a task: a public one or a test set with
judgements, which may add TREC runs in `runs/`, `per_pair.parquet` and `mteb.json`. `load_test` reads and checks what is
small, so that a mistake is found before a model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

import hybrid_ir
from hybrid_ir.config import Experiment
from hybrid_ir.data import lareqa_collection, open_store
from hybrid_ir.encoders import (
    TextReader,
    best_device,
    cut_into_pieces,
    encode,
    load_encoder,
    resolve_precision,
    space_of,
)
from hybrid_ir.evaluation.averages import evaluate_collection, evaluate_scores
from hybrid_ir.evaluation.lexical import bm25_scores, bm25_version
from hybrid_ir.evaluation.public_tasks import TASKS, Task, load_task
from hybrid_ir.evaluation.tasks.mteb_result import MtebTask, mteb_result
from hybrid_ir.evaluation.tasks.result import summarize
from hybrid_ir.evaluation.test_sets.layouts import TEST_SETS, load_test_set
from hybrid_ir.evaluation.test_sets.measure import measure_judged
from hybrid_ir.languages import FAMILY
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.reports import read_log, write_report, write_task_report
from hybrid_ir.storage import write_json
from hybrid_ir.types import Collection, InputError

LAREQA = ("xquad-r", "mlqa-r")
BM25 = "BM25"
Test = Collection | Task


ONLY_OF = {"topics": ("trec",), "qrels": ("trec",), "language": TEST_SETS, "corpus": ("miracl", "trec")}
"""Which collections know an option of `load_test`; every other refuses it."""


def load_test(
    name: str,
    path: str,
    *,
    split: str | None = None,
    languages: Sequence[str] | None = None,
    corpus: str | None = None,
    topics: str | None = None,
    qrels: str | None = None,
    language: str | None = None,
) -> Test:
    """A split that a `store` holds out, a folder of LAReQA's files (xquad-r, mlqa-r: all of it), a public task, or a
    test set with judgements (beir, trec, judged), whose passages are all read once, to check them.

    `split` None is the test split, and dev for MIRACL. `corpus` is where MIRACL's corpora are, if not at `path`, or
    which file has trec's passages. `topics`, `qrels` and `language` are those of `load_test_set`. Raises InputError for
    an unknown name, a missing or malformed file, an option of other collections, or a language that the test lacks.
    """
    given = {"topics": topics, "qrels": qrels, "language": language, "corpus": corpus}
    for option in [option for option, value in given.items() if value is not None and name not in ONLY_OF[option]]:
        raise InputError(f"--{option} goes with {', '.join(ONLY_OF[option])}, not with {name}; leave it out")
    if name in TEST_SETS:
        if split is not None and name != "beir":
            raise InputError(f"{name} has no splits, got --split {split}; name the files of that split instead")
        judged = load_test_set(name, path, split=split, languages=languages, **given)
        measure, mteb = partial(measure_judged, judged), MtebTask(name, split or "test")
        return Task(name, measure, judged.n_texts, f"{name} {judged.content}", mteb, takes_pieces=True)
    if name in TASKS:
        return load_task(name, path, split=split, languages=languages, corpus=corpus)
    if name in LAREQA:
        return lareqa_collection(path, name, languages)
    if name != "store":
        raise InputError(f"unknown collection {name!r}; there are {', '.join(('store', *LAREQA, *TASKS, *TEST_SETS))}")
    collection = open_store(path).collection(split or "test")
    for language in languages or ():
        if language not in collection.languages:
            raise InputError(f"{path} has no test in {language!r}; it has {', '.join(collection.languages)}")
    if not languages:
        return collection
    return Collection(
        collection.name,
        [q for q in collection.queries if q.language in languages],
        [c for c in collection.candidates if c.language in languages],
    )


def count_texts(test: Test) -> int | None:
    """How many texts an evaluation encodes; None where only the end of a corpus tells."""
    return len(test.queries) + len(test.candidates) if isinstance(test, Collection) else test.n_texts


def load_measured(checkpoint: str, experiment: Experiment, device: str | None = None) -> SentenceTransformer:
    """The encoder to measure, with the pooling and prefixes that `experiment` asks for; None = on the fastest device
    here."""
    section = experiment.encoder
    return load_encoder(
        checkpoint,
        pooling=section.pooling,
        query_prefix=section.query_prefix,
        passage_prefix=section.passage_prefix,
        prompts=section.prompts,
        device=device or best_device(),
    )


def encoder_of(
    model: SentenceTransformer, experiment: Experiment, progress: Callable[[int], None] = lambda texts: None
) -> Callable[..., np.ndarray]:
    """`encode` with this model, as `experiment.evaluate` says; it takes texts, `role` and perhaps `languages`. Queries
    are read behind the prompt of its task. Raises InputError for one that the model has no prompt for."""
    settings = experiment.evaluate
    if settings.task is not None:
        TextReader.of(model).check_task(settings.task, "evaluate.task")
    run = partial(encode, model, precision=settings.precision, token_budget=settings.token_budget, progress=progress)
    return lambda texts, *, role, **more: run(texts, role=settings.task or role if role == "query" else role, **more)


def evaluate(
    model: SentenceTransformer,
    checkpoint: str,
    test: Test,
    out: Path,
    experiment: Experiment,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, Any]:
    """Encode the texts of the test, rank, average; write the files to `out`. `progress` gets how many texts are done.

    Returns what `metrics.json` holds. Of `experiment`, `evaluate`, `seed` and `index.pieces` are read. Raises
    InputError where passages are to be cut into pieces, and the test is none whose passages may be long.
    """
    start = time.perf_counter()
    pieces = experiment.index.pieces.how
    if pieces is not None and not (isinstance(test, Task) and test.takes_pieces):
        raise InputError(
            f"index.pieces.tokens={pieces[0]} is for test sets of your own ({', '.join(TEST_SETS)}), whose passages "
            f"may be long; {test.name} is of sentences and passages: set it to null"
        )
    encode_role = encoder_of(model, experiment, progress)
    chance = {"seed": experiment.seed, "resamples": experiment.evaluate.bootstrap_rounds}
    named = {"checkpoint": checkpoint, "precision": resolve_precision(experiment.evaluate.precision, model.device.type)}
    if isinstance(test, Collection):
        queries, candidates = (
            encode_role([each.text for each in of], role=role, languages=[each.language for each in of])
            for role, of in (("query", test.queries), ("document", test.candidates))
        )
        texts_per_s = (len(queries) + len(candidates)) / (time.perf_counter() - start)
        result = evaluate_collection(test.queries, test.candidates, queries, candidates, families=FAMILY, **chance)
        cost = {**size_of(model), "texts_per_s": round(texts_per_s, 1)}
        summary = {**named, **result.summary, "cost": cost, "made_from": made_from(model, test, experiment)}
        log = read_log(Path(checkpoint).parent / "log.jsonl")
        tables = {"per_query": result.per_query}
        return _write(out, test.name, start, summary, tables, partial(write_report, training_log=log))
    clock = _Clock(encode_role)
    more: dict[str, Any] = {}
    if pieces is not None:
        more["cut"] = partial(cut_into_pieces, TextReader.of(model), tokens=pieces[0], overlap=pieces[1])
        more["cut"]([])  # an encoder that reads fewer tokens is refused before anything is encoded
    result = test.measure(partial(clock, role="query"), partial(clock, role="document"), out / "runs", **more)
    summary: dict[str, Any] = named | summarize(result, **chance)
    summary["counts"]["cut"] = clock.cut
    if test.content is not None:
        summary["cost"] = {**size_of(model), "texts_per_s": round(clock.texts / max(clock.seconds, 1e-9), 1)}
        summary["made_from"] = made_from(model, test, experiment)
    tables = {"per_query": result.per_query, "per_pair": result.per_pair}
    as_mteb = None if test.mteb is None else partial(mteb_result, test.mteb, test.content or "")
    return _write(out, test.name, start, summary, tables, write_task_report, as_mteb)


class _Clock:
    """An encoder that adds up how many texts it had, how many passages of these were longer than it reads, and how long
    it took."""

    def __init__(self, encode_role: Callable[..., np.ndarray]) -> None:
        self._encode = encode_role
        self.texts, self.cut, self.seconds = 0, 0, 0.0

    def __call__(self, texts: Sequence[str], languages: str | Sequence[str] | None = None, *, role: str) -> np.ndarray:
        start = time.perf_counter()
        cut = np.zeros(len(texts), dtype=bool)
        vectors = self._encode(texts, role=role, languages=languages, cut=cut)
        self.texts += len(texts)
        self.cut += int(cut.sum()) if role == "document" else 0
        self.seconds += time.perf_counter() - start
        return vectors


def evaluate_bm25(test: Collection, out: Path, experiment: Experiment) -> dict[str, Any]:
    """Rank the test with BM25 and write the files that `evaluate` writes. Raises InputError without the extra bm25."""
    start = time.perf_counter()
    score = bm25_scores([q.text for q in test.queries], [c.text for c in test.candidates])
    texts_per_s = (len(test.queries) + len(test.candidates)) / (time.perf_counter() - start)
    chance = {"seed": experiment.seed, "resamples": experiment.evaluate.bootstrap_rounds}
    result = evaluate_scores(test.queries, test.candidates, score, families=FAMILY, **chance)
    cost = {"parameters": None, "dimension": None, "megabytes": None, "texts_per_s": round(texts_per_s, 1)}
    summary = {"checkpoint": BM25, **result.summary, "cost": cost, "made_from": made_from(None, test, experiment)}
    return _write(out, test.name, start, summary, {"per_query": result.per_query}, write_report)


def made_from(model: SentenceTransformer | None, test: Test, experiment: Experiment) -> dict[str, Any]:
    """All that the measures depend on: two evaluations with equal ones need not both be run. `model` None is BM25."""
    pieces, task = experiment.index.pieces.how, experiment.evaluate.task
    said: dict[str, str] = {}  # the task's prompt, and those that it has in languages: no part of the space
    if task is not None and model is not None:
        reader = TextReader.of(model)
        reader.check_task(task, "evaluate.task")
        said = {name: x for name, x in reader.prefixes.items() if name == task or name.startswith(f"{task}-")}
    return {
        **({} if pieces is None else {"pieces": list(pieces)}),
        **({"task": said} if said else {}),
        "ranker": bm25_version() if model is None else space_of(model)["id"],
        "precision": None if model is None else resolve_precision(experiment.evaluate.precision, model.device.type),
        "test": _content_of(test),
        "seed": experiment.seed,
        "bootstrap_rounds": experiment.evaluate.bootstrap_rounds,
        "version": hybrid_ir.__version__,
    }


def size_of(model: SentenceTransformer) -> dict[str, int | float | None]:
    """Parameters, dimension of a vector, and megabytes (10^6 bytes) that the weights take in memory, in float32."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": parameters,
        "dimension": model.get_embedding_dimension(),
        "megabytes": round(parameters * 4 / 1e6, 1),
    }


def _content_of(test: Test) -> str | None:
    """A hash of every query and candidate, in their order: a copy of the collection elsewhere has the same."""
    if isinstance(test, Task):
        return test.content
    digest = hashlib.blake2b(test.name.encode(), digest_size=16)
    for item in (*test.queries, *test.candidates):
        digest.update(json.dumps([type(item).__name__, *item], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _write(
    out: Path,
    collection: str,
    start: float,
    measured: dict[str, Any],
    tables: Mapping[str, pa.Table | None],
    page: Any,
    as_mteb: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The files of an evaluation; a table that is None has none. Returns what `metrics.json` holds."""
    summary = {
        "collection": collection,
        "seconds": round(time.perf_counter() - start, 1),
        "version": hybrid_ir.__version__,
        **measured,
    }
    out.mkdir(parents=True, exist_ok=True)
    # Gone while the others are written, and written last: a folder with measures has everything else that they say.
    (out / "metrics.json").unlink(missing_ok=True)
    for name, table in tables.items():
        file = out / f"{name}.parquet"
        if table is None:
            file.unlink(missing_ok=True)  # of another test
        else:
            pq.write_table(table, file)
    if as_mteb is None:
        (out / "mteb.json").unlink(missing_ok=True)
    else:
        write_json(out / "mteb.json", as_mteb(summary))
    page(out / "report.html", title=collection, subtitle=f"checkpoint {summary['checkpoint']}", summary=summary)
    write_json(out / "metrics.json", summary)
    return summary


def averages_of(summary: dict[str, Any]) -> dict[str, float | None]:
    """The averages of an evaluation by measure: of a task its own, of a collection those of `MEASURES`."""
    return summary.get("measures") or {measure: summary[measure] for measure in MEASURES}

"""mteb beside us, on a task that is made here: it loads our checkpoint, measures what we measure, and opens our file.

mteb has a split of several languages as subsets, with a pool each; so each of ours is measured alone.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import requests
from indices import sample_passages, write_served_index
from starlette.testclient import TestClient
from task_files import json_lines, write

from hybrid_ir.config import Serve
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.evaluation.evaluator import evaluate, load_test
from hybrid_ir.evaluation.tasks.mteb_result import SCORES
from hybrid_ir.languages import FAMILY, language_and_script
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService

mteb = pytest.importorskip("mteb")
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.languages import ISO_TO_LANGUAGE, ISO_TO_SCRIPT  # noqa: E402
from mteb.models import SentenceTransformerEncoderWrapper, openai_wrappers  # noqa: E402

WORDS = {
    "de": ["Fluss", "Berg", "Stadt", "See", "lang", "hoch", "alt", "tief", "Land", "Wald"],
    "sw": ["mto", "mlima", "mji", "ziwa", "refu", "juu", "zamani", "kina", "nchi", "msitu"],
}


ROUNDED = 6e-6
"""mteb rounds its scores to five digits."""


def texts(language: str, count: int, length: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS[language], length)) for _ in range(count)]


def write_beir(root: Path, language: str) -> Path:
    """Twelve queries with three judged passages each, graded 0 to 2, of thirty; two of them have titles."""
    passages, queries = texts(language, 30, 7, 1), texts(language, 12, 4, 2)
    titles = {3: "Titel", 8: "Name"}
    grades = np.random.default_rng(3).integers(0, 3, (12, 3))
    judged = [(q, (5 * q + 7 * k) % 30, grades[q, k] + (k == 0)) for q in range(12) for k in range(3)]
    corpus = ({"_id": f"d{i}", "title": titles.get(i, ""), "text": text} for i, text in enumerate(passages))
    write(root / "corpus.jsonl", json_lines(*corpus))
    write(root / "queries.jsonl", json_lines(*({"_id": f"q{i}", "text": text} for i, text in enumerate(queries))))
    rows = "".join(f"q{q}\td{d}\t{grade}\n" for q, d, grade in judged)
    write(root / "qrels/test.tsv", f"query-id\tcorpus-id\tscore\n{rows}")
    return root


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def mteb_task(folders: dict[str, Path]) -> AbsTaskRetrieval:
    """The task whose subsets are these folders of BEIR's files, without a hub."""

    class Made(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Made",
            description="made in a test",
            dataset={"path": "none/none", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs={code: [language_and_script(code)] for code in folders},
            main_score="ndcg_at_10",
            license="not specified",
        )

        def load_data(self, **_) -> None:
            self.dataset = {}
            for code, folder in folders.items():
                corpus, queries = (read_lines(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
                qrels: dict[str, dict[str, int]] = {}
                for line in (folder / "qrels/test.tsv").read_text().splitlines()[1:]:
                    query_id, doc_id, grade = line.split("\t")
                    qrels.setdefault(query_id, {})[doc_id] = int(grade)
                made = {
                    "corpus": datasets.Dataset.from_list([{"id": row.pop("_id"), **row} for row in corpus]),
                    "queries": datasets.Dataset.from_list([{"id": row.pop("_id"), **row} for row in queries]),
                    "relevant_docs": qrels,
                    "top_ranked": None,
                }
                self.dataset[code] = {"test": made}
            self.data_loaded = True

    return Made()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {code: write_beir(root / code, code) for code in WORDS}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Its encoder has another prefix for queries than for passages, so that a role in place of the other is seen."""
    folder = tmp_path_factory.mktemp("served") / "index"
    write_served_index(folder, sample_passages())
    return folder


@pytest.fixture(scope="module")
def checkpoint(index):
    return str(index / "encoder")


@pytest.fixture(scope="module")
def ours(folders, checkpoint, tmp_path_factory):
    """The folder of each evaluation, by language."""
    experiment = load_experiment(None, ["evaluate.precision=fp32", "evaluate.bootstrap_rounds=5"])
    root, model = tmp_path_factory.mktemp("ours"), load_encoder(checkpoint)
    for code, folder in folders.items():
        evaluate(model, checkpoint, load_test("beir", str(folder), language=code), root / code, experiment)
    return root


def scores_of(result) -> dict[str, dict[str, float]]:
    return {row["hf_subset"]: row for row in result.scores["test"]}


@pytest.fixture(scope="module")
def theirs(folders, checkpoint):
    """What mteb says of the checkpoint, which it loads by its own wrapper of a folder."""
    model = SentenceTransformerEncoderWrapper(checkpoint)
    done = mteb.evaluate(model, mteb_task(folders), cache=None, co2_tracker=False, show_progress_bar=False)
    return scores_of(done.task_results[0])


def test_mteb_loads_a_checkpoint_and_finds_what_we_find(theirs, ours):
    assert set(theirs) == set(WORDS)
    for code, row in theirs.items():
        summary = json.loads((ours / code / "metrics.json").read_text())["measures"]
        assert 0.1 < summary["nDCG@10"] < 0.9
        for measure, value in summary.items():
            assert row[SCORES[measure]] == pytest.approx(value, abs=ROUNDED), (code, measure)


def test_mteb_takes_the_prefixes_of_queries_and_passages_from_the_checkpoint(checkpoint):
    prompts = load_encoder(checkpoint).prompts
    assert prompts["query"] != prompts["document"]
    assert SentenceTransformerEncoderWrapper(checkpoint).model_prompts == {
        name: prompts[name] for name in ("query", "document")
    }


def test_mteb_opens_our_file_as_its_own(theirs, ours):
    for code, row in theirs.items():
        result = mteb.TaskResult.from_disk(ours / code / "mteb.json")
        (own,) = result.scores["test"]
        assert (result.task_name, own["hf_subset"]) == ("beir", code)
        assert result.languages == [language_and_script(code).split("-")[0]]
        assert result.get_score() == own["main_score"] == pytest.approx(row["main_score"], abs=ROUNDED)
        assert {name for name in own if name in row} >= {*SCORES.values()} - {"ndcg_at_20"}


def test_in_mteb_s_folders_our_file_stands_among_its_results(ours, tmp_path):
    place = tmp_path / "results" / "acme__encoder" / "1"
    place.mkdir(parents=True)
    shutil.copy(ours / "de" / "mteb.json", place / "beir.json")
    found = mteb.ResultCache(tmp_path).load_results(require_model_meta=False, include_remote=False)
    (model,) = found.model_results
    assert (model.model_name, [result.task_name for result in model.task_results]) == ("acme/encoder", ["beir"])
    assert model.task_results[0].get_score(languages=["deu"]) == pytest.approx(
        json.loads((ours / "de" / "metrics.json").read_text())["measures"]["nDCG@10"]
    )


def test_every_language_is_written_as_mteb_knows_it():
    for code in FAMILY:
        language, script = language_and_script(code).split("-")
        assert (language in ISO_TO_LANGUAGE, script in ISO_TO_SCRIPT) == (True, True), code


def test_the_page_s_class_measures_a_service_through_mteb_s_wrapper_of_openai_s_api(
    index, folders, theirs, monkeypatch
):
    """The class of docs/evaluate.md, run as it stands there: both roles reach the service, and nothing is lost."""
    page = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(from mteb.models import OpenAI.*?)^```", page, re.M | re.S)
    served = SearchService(LocalRelease(str(index)), Serve(model_name="our-e5"))
    http = TestClient(create_app(served))
    asked: list[str] = []

    def post(url: str, *, json: dict, verify: bool, timeout: float, **rest):
        asked.append(json["model"])
        return http.post(url, json=json, **rest)  # TestClient knows neither limit of time nor certificates

    local = SimpleNamespace(
        post=post, get=lambda url, verify, **rest: http.get(url, **rest), exceptions=requests.exceptions
    )
    monkeypatch.setattr(openai_wrappers, "requests", local)
    names: dict = {}
    exec(block, names)
    done = mteb.evaluate(names["model"], mteb_task(folders), cache=None, co2_tracker=False, show_progress_bar=False)
    assert set(asked) == {"our-e5", "our-e5:query"}
    for code, row in scores_of(done.task_results[0]).items():
        assert row["ndcg_at_10"] == pytest.approx(theirs[code]["ndcg_at_10"], abs=ROUNDED)

"""Studies: their files hold together, in all forms; what a page says is what the numbers say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from checkpoints import make_preset
from conftest import make_group, write_store
from test_squad import paragraph, qa, write_squad

from hybrid_ir.config.experiment import Experiment
from hybrid_ir.evaluation.perturbations import PERTURBATIONS
from hybrid_ir.evaluation.significance import Comparison
from hybrid_ir.tuning.page import write_sweep_report
from hybrid_ir.tuning.page_parts import Findings, Table
from hybrid_ir.tuning.points import enumerate_points, point_label
from hybrid_ir.tuning.search_space import parse_space
from hybrid_ir.tuning.studies.findings import comparison_sentence, find, take_benchmark_as_test
from hybrid_ir.tuning.studies.probes import clean_and_perturbed, probe_trial, translation_search, within_each_language
from hybrid_ir.tuning.studies.study import FOLDER, STUDIES, Benchmark, check_collections, check_study, load_study
from hybrid_ir.types import Candidate, Collection, InputError, Query

FORMS = [(name, form) for name in STUDIES for form in ("toy", "real", "full")]
SPACES = Path(__file__).parents[1] / "tune_configs" / "spaces"


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_study_resolves_in_all_forms(name, form, tmp_path):
    study = load_study(name, form, tmp_path)
    points = enumerate_points(study.space, study.experiment)
    check_study(study, points)
    assert study.question.endswith("?")
    if form == "full":
        assert study.collections
        assert all(float(study.experiment.train.gpus_per_worker) > 0 for _ in points)


def test_the_mixing_ratio_has_seven_points_along_alpha_with_three_seeds_and_the_simplex(tmp_path):
    study = load_study("mixing_ratio", "toy", tmp_path)
    points = enumerate_points(study.space, study.experiment)
    assert len([p for p in points if "batch.alpha" in p]) == 7
    assert study.space.seeds == (0, 1, 2)
    mixes = [p["batch.mix"] for p in points if "batch.mix" in p]
    assert sum(all(m.get(k) for k in ("monolingual", "cross_lingual", "multilingual")) for m in mixes) == 3


def test_the_full_forms_have_the_papers_settings(tmp_path):
    for name in STUDIES:
        experiment = load_study(name, "full", tmp_path).experiment
        assert (experiment.train.learning_rate, experiment.train.weight_decay, experiment.batch.size) == (
            3e-5,
            0.01,
            100,
        )


@pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda p: p.name)
def test_every_space_of_the_repository_holds_points(file):
    space = parse_space(yaml.safe_load(file.read_text(encoding="utf-8")), file.name)
    assert space.search == "bayesian" or len(enumerate_points(space, Experiment())) >= 2


def test_overrides_change_what_all_trials_share(tmp_path):
    assert load_study("robustness", "toy", tmp_path, ["train.steps=7"]).experiment.train.steps == 7
    with pytest.raises(InputError, match=r"did you mean 'train\.steps'"):
        load_study("robustness", "toy", tmp_path, ["train.step=7"])
    with pytest.raises(InputError, match=r"the value of 'batch\.mix=\{' is not readable YAML"):
        load_study("robustness", "toy", tmp_path, ["batch.mix={"])


def study_file(tmp_path, change=lambda tree: None):
    tree = yaml.safe_load((FOLDER / "robustness.yaml").read_text(encoding="utf-8"))
    change(tree)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("question"),
            "must have the keys question and toy, and no others but toy, real, full; found full, real, toy",
        ),
        (lambda t: t["toy"].pop("space"), "toy must have the keys compare, experiment, space"),
        (lambda t: t["toy"]["experiment"].update(trian={}), "unknown key 'trian'; did you mean 'train'"),
        (lambda t: t["toy"]["space"]["axes"].update(recipe=[]), "axes.recipe: give a list of values"),
        (lambda t: t["toy"].update(compare=[["hybrid"]]), "compare must hold pairs of points"),
        (
            lambda t: t["toy"].update(compare=[["hybrid", "nothing"]]),
            "compare names 'nothing'; its points are hybrid, mono",
        ),
    ],
)
def test_a_broken_study_is_refused_with_its_fault(tmp_path, change, message):
    def resolve():
        study = load_study(study_file(tmp_path, change), "toy", tmp_path)
        check_study(study, enumerate_points(study.space, study.experiment))

    with pytest.raises(InputError, match=message):
        resolve()


def test_an_unknown_study_and_a_missing_collection_are_named(tmp_path):
    with pytest.raises(InputError, match="no study 'mixing'; there are mixing_ratio, model_choice, "):
        load_study("mixing", "toy", tmp_path)
    with pytest.raises(InputError, match="no xquad-r at data/xquad-r; fetch it"):
        check_collections(load_study("robustness", "full", tmp_path))


# What a page says


def comparison(measure, first, second, p):
    return Comparison("hybrid", "monolingual", measure, (first, second), first - second, 0.0, 0.0, p, 40)


def test_a_sentence_says_what_was_won_and_what_was_lost():
    said = comparison_sentence(
        [
            comparison("AP_mono", 0.7, 0.8, 0.001),
            comparison("AP_multi", 0.4, 0.2, 0.0001),
            comparison("rank_distance", 100.0, 300.0, 0.04),
            comparison("AP_cross", 0.3, 0.29, 0.2),
        ]
    )
    assert said == (
        "hybrid against monolingual: better on AP_multi (0.400 against 0.200, p < 0.001), rank_distance (100.0 against 300.0, "  # noqa: E501
        "p = 0.040); worse on AP_mono (0.700 against 0.800, p = 0.001); no difference shown on AP_cross (0.300 against 0.290, "  # noqa: E501
        "p = 0.200)."
    )


def test_a_loss_is_said_as_plainly_as_a_win():
    assert comparison_sentence([comparison("AP_multi", 0.2, 0.4, 0.0001)]).endswith(". hybrid does not win.")
    assert comparison_sentence([comparison("AP_multi", 0.2, 0.4, 0.5)]).endswith(". hybrid does not win.")


def row(label, point, seed, **measures):
    measures = {"AP_mean": 0.5, "AP_mono": 0.5, "AP_cross": 0.4, "AP_multi": 0.3, "rank_distance": 10.0} | measures
    return {
        "trial": f"{label}-{seed}", "label": label, "point": point, "seed": seed, "state": "complete", "error": None,
        "steps": 10, "seconds": 1.0, "validation": measures, "test": measures,
    }  # fmt: skip


def write_trial(out, row, mono):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = out / "trials" / row["trial"] / "test"
    folder.mkdir(parents=True)
    rows = [(str(q), x, pool, mono[x], 5.0) for q in range(20) for x in mono for pool in (x, "all", "xx")]
    names = ("group_id", "language", "pool", "AP", "rank_distance")
    pq.write_table(pa.table({n: [r[i] for r in rows] for i, n in enumerate(names)}), folder / "per_query.parquet")
    summary = {"per_language": {x: {"AP_mono": ap} for x, ap in mono.items()}}
    (folder / "metrics.json").write_text(json.dumps(summary), encoding="utf-8")


def test_degradation_is_told_by_language_family_and_script(tmp_path):
    study = load_study("monolingual_degradation", "toy", tmp_path)
    mono = {"de": 0.8, "en": 0.9, "ru": 0.6}
    rows = [row(name, {"recipe": name}, 0) for name in ("monolingual", "hybrid", "cross_lingual")]
    for each, cost in zip(rows, (0.0, 0.1, 0.4), strict=True):
        write_trial(tmp_path, each, {x: ap - cost - (0.1 if cost and x == "ru" else 0) for x, ap in mono.items()})
    found = find(study, rows, {}, tmp_path)
    assert (
        "hybrid lowers AP_mono in 3 of 3 languages against monolingual: from -0.200 (ru) to -0.100 (de), on average -0.133."  # noqa: E501
        in (found.sentences)
    )
    by_family = next(t for t in found.tables if t.title == "AP_mono by family")
    assert ["Germanic (de, en)", "0.850", "-0.100", "-0.400"] in by_family.rows
    by_script = next(t for t in found.tables if t.title == "AP_mono by script")
    assert ["Cyrl (ru)", "0.600", "-0.200", "-0.500"] in by_script.rows
    tests = next(t for t in found.tables if t.title == "Tests")
    assert ["hybrid against monolingual", "AP_mono", "-0.133"] in [list(r[:3]) for r in tests.rows]


def test_a_page_has_every_point_its_cause_of_failure_and_a_picture(tmp_path):
    space = parse_space({"axes": {"batch.alpha": [0, 0.5, 1]}, "seeds": [0, 1]}, "test")
    rows = [
        row(f"alpha={a:g}", {"batch.alpha": a}, s, AP_mono=0.1 + a / 2 + s / 100) for a in (0, 0.5, 1) for s in (0, 1)
    ]
    rows[0] |= {"state": "failed", "error": "ValueError: <no> & more", "validation": {}, "test": {}}
    findings = Findings("Why?", ["Because."], [Table("A table", "note", ("x", "y"), [["1", "2"]])])
    write_sweep_report(tmp_path / "report.html", "Title", Experiment(), space, rows, findings)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for part in ("Why?", "Because.", "A table", "alpha=0.5", "ValueError: &lt;no&gt; &amp; more", 'aria-label="alpha"'):
        assert part in page, part
    assert "http://" not in page.replace("http://www.w3.org", "")  # loads nothing


def test_a_benchmark_stands_in_where_nothing_was_held_out():
    rows = [row("a", {}, 0) | {"test": {}}]
    take_benchmark_as_test(
        rows, {"a-0": {"xquad-r/AP_mono": 0.6, "xquad-r/AP_cross": 0.4, "tatoeba/accuracy_to_en": 1.0}}
    )
    assert rows[0]["test"] == {"AP_mean": 0.5, "AP_mono": 0.6, "AP_cross": 0.4}


# The full forms hold nothing out: their pages are of benchmarks


@pytest.fixture(scope="module")
def full_inputs(tmp_path_factory):
    """A store without a test, an encoder, LAReQA in three languages and MIRACL in one: a few texts each."""
    folder = tmp_path_factory.mktemp("full")
    write_store(folder / "store", [make_group(n) for n in range(40)], test_fraction=0)
    make_preset(folder / "checkpoint")
    (folder / "xquad").mkdir()
    for language in ("de", "el", "en"):
        paragraphs = [
            paragraph([f"{language} {n} is here.", f"{language} other {n}."], qa(f"q{n}", f"where is {language} {n}?"))
            for n in range(6)
        ]
        write_squad(folder / "xquad" / f"{language}.json", ("Title", paragraphs))
    miracl = folder / "miracl"
    corpus = miracl / "miracl-corpus-v1.0-sw"
    corpus.mkdir(parents=True)
    lines = [json.dumps({"docid": f"{n}#0", "title": f"t{n}", "text": f"sw {n}"}) for n in range(6)]
    (corpus / "docs-0.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for kind, text in (
        ("topics", "\n".join(f"{n}\tsw {n}?" for n in range(6))),
        ("qrels", "\n".join(f"{n}\tQ0\t{n}#0\t1" for n in range(6))),
    ):
        file = miracl / "miracl-v1.0-sw" / kind / f"{kind}.miracl-v1.0-sw-dev.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("form", ["real", "full"])
def test_the_page_of_a_form_is_made_from_its_benchmarks(name, form, full_inputs, tmp_path):
    overrides = [f"store={full_inputs / 'store'}", "train.gpus_per_worker=0", "evaluate.bootstrap_rounds=50"]
    study = load_study(name, form, tmp_path, overrides)
    benchmarks = [Benchmark(collection="xquad-r", path=str(full_inputs / "xquad"))]
    if name == "model_size":
        benchmarks.append(Benchmark(collection="miracl", path=str(full_inputs / "miracl"), languages=("sw",)))
    study = dataclasses.replace(study, collections=tuple(benchmarks))
    compared = {label for pair in study.compare for label in pair}
    points = [p for p in enumerate_points(study.space, study.experiment) if point_label(p) in compared]
    rows = []
    for i, point in enumerate(points):
        rows.append(row(point_label(point), point, 0) | {"trial": f"t{i}", "test": {}})
        run = tmp_path / "trials" / f"t{i}"
        run.mkdir(parents=True)
        (run / "checkpoint").symlink_to(full_inputs / "checkpoint")
        (run / "metrics.json").write_text('{"seconds": 1.0}', encoding="utf-8")
    probes = {each["trial"]: probe_trial(study, each, tmp_path) for each in rows}
    take_benchmark_as_test(rows, probes)
    findings = find(study, rows, probes, tmp_path)
    write_sweep_report(tmp_path / "report.html", name, study.experiment, study.space, rows, findings)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for a, b in study.compare:
        assert any(sentence.startswith(f"{a} against {b}: ") for sentence in findings.sentences)
    titles = {table.title for table in findings.tables}
    assert titles >= {"Tests", "Benchmarks", *OWN_TABLES[name]}
    assert all(title in page for title in titles)
    assert "nan" not in page.lower().replace("finan", "")


OWN_TABLES = {
    "mixing_ratio": (),
    "model_choice": ("Search by translation",),
    "model_size": ("Size, cost and retrieval within each language",),
    "monolingual_degradation": ("AP_mono by language", "AP_mono by family", "AP_mono by script"),
    "robustness": ("Perturbed queries", "Languages that training never saw"),
}


# Probes, with an encoder that knows each word


class Words:
    """Vectors of word counts, whatever the language: exact where question and passage share their words."""

    def __init__(self, vocabulary):
        self.place = {word: i for i, word in enumerate(sorted(vocabulary))}

    def __call__(self, texts, *, role, **_):
        vectors = np.full((len(texts), len(self.place)), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                if word in self.place:
                    vectors[row, self.place[word]] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def words(monkeypatch):
    groups = [make_group(n) for n in range(12)]
    queries = [Query(f"{g.group_id}-{x}", g.group_id, x, f"{g.group_id} {x}") for g in groups for x in g.queries]
    passages = [
        Candidate(f"{g.group_id}-{x}", (g.group_id,), x, f"{g.group_id} {x}", g.document)
        for g in groups
        for x in g.queries
    ]
    tests = Collection("words", queries, passages)
    encoder = Words({word for q in queries for word in q.text.split()})
    monkeypatch.setattr(
        "hybrid_ir.evaluation.evaluator.encode", lambda model, texts, **settings: encoder(texts, **settings)
    )
    return tests


def test_a_perfect_encoder_finds_everything_within_a_language_and_by_translation(words):
    assert within_each_language(None, words, Experiment()) == pytest.approx({"nDCG@10": 1.0, "R@100": 1.0})
    assert translation_search(None, words, Experiment()) == pytest.approx(
        {"accuracy_to_en": 1.0, "accuracy_from_en": 1.0}
    )


def test_typos_cost_an_encoder_of_words_and_clean_queries_nothing(words):
    found = clean_and_perturbed(None, words, Experiment())
    assert found["clean/AP_mono"] == pytest.approx(1.0)
    assert found["clean/changed"] == 0
    assert found["typos/changed"] > 0.1
    assert found["typos/AP_mono"] < 1.0
    assert {key.partition("/")[0] for key in found} == {"clean", *PERTURBATIONS}

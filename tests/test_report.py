"""Pages stand alone, hold what was measured, say who lost, and repeat byte for byte."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from hybrid_ir.measure_names import MEASURES
from hybrid_ir.reports.charts import heat_map_png
from hybrid_ir.reports.pages import write_comparison, write_report
from hybrid_ir.types import InputError

LANGUAGES = ("de", "en", "th")
VOID = {"meta", "br", "link", "img", "hr", "input"}


def summary_of(**changes):
    """Three languages; every measure .5 with an interval of +-.01 but for `changes`."""
    values = dict.fromkeys(MEASURES, 0.5) | {"rank_distance": 50.0} | changes
    language = dict.fromkeys(("AP_mono", "AP_cross_as_query", "AP_cross_as_passage", "AP_multi"), 0.5)
    return values | {
        "intervals": {measure: [value - 0.01, value + 0.01] for measure, value in values.items() if value is not None},
        "languages": list(LANGUAGES),
        "matrix": {query: {passage: 0.4 + 0.1 * (query == passage) for passage in LANGUAGES} for query in LANGUAGES},
        "per_language": {name: language | {"rank_distance": 50.0} for name in LANGUAGES},
        "per_family": {"Germanic": language | {"rank_distance": 50.0, "languages": ["de", "en"]}},
        "counts": {
            "queries": dict.fromkeys(LANGUAGES, 1190),
            "candidates": dict.fromkeys(LANGUAGES, 1200),
            "without_relevant": 0,
            "without_parallel": 3,
            "outside_languages": {"queries": 0, "candidates": 0},
            "empty_pairs": 0,
        },
    }


LOG = [
    *(
        {"step": s, "loss": 2 / s, "learning_rate": 1e-4, "pairs_per_s": 900.0, "input_wait": 0.01}
        for s in range(10, 100, 10)
    ),
    {"step": 50, "AP_mono": 0.3, "AP_cross": 0.2, "AP_multi": 0.1, "rank_distance": 90.0},
    {"step": 90, "AP_mono": 0.5, "AP_cross": 0.4, "AP_multi": 0.3, "rank_distance": 50.0},
    {"step": 95, "loss": float("nan"), "learning_rate": 1e-4},
]


def report_text(path, **changes):
    write_report(path, **({"title": "A run", "summary": summary_of(), "training_log": LOG} | changes))
    return path.read_text(encoding="utf-8")


def comparison_text(path, **runs):
    write_comparison(path, title="Runs", runs={name: {"summary": s, "log": LOG} for name, s in runs.items()})
    return path.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Fails where an element is closed that is not the last one opened; gathers ids."""

    def __init__(self):
        super().__init__()
        self.open, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_stands_alone(html):
    assert not re.search(r"<(script|link|iframe|img|object)\b", html)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="([^"]*)"', html))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    page = Balance()
    page.feed(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', html)
    assert {a or b for a, b in references} <= set(page.ids)


def test_report_stands_alone_and_holds_measures_languages_and_settings(tmp_path):
    html = report_text(tmp_path / "report.html", settings={"batch": {"alpha": 0.5}})
    assert_stands_alone(html)
    for name in (*MEASURES, *LANGUAGES, "batch.alpha", "0.490\N{EN DASH}0.510", "Training"):
        assert f">{name}<" in html
    assert ">Germanic <span>de, en</span><" in html
    assert "3 queries without parallel passages" in " ".join(html.split())
    assert "#0102" not in html  # every placeholder colour became one of the page's
    assert "#0103" not in html


def test_report_without_log_or_defined_measures_is_whole(tmp_path):
    html = report_text(tmp_path / "report.html", training_log=None, summary=summary_of(AP_cross=None))
    assert_stands_alone(html)
    assert "<td>\N{EN DASH}</td>" in html
    assert ">Training<" not in html


def test_report_shows_comparison_rows_and_marks_the_best(tmp_path):
    html = report_text(tmp_path / "report.html", comparisons={"published": {"AP_mono": 0.6, "rank_distance": 70.0}})
    assert ">published<" in html
    assert re.search(r'class="best">\s*0\.600', html)
    assert re.search(r'class="best">\s*50\.0', html)  # the lower distance is the better one


def test_text_from_outside_is_escaped(tmp_path):
    evil = "<script>alert(1)</script> $x_1$ &"
    html = report_text(tmp_path / "r.html", title=evil, subtitle=evil, settings={evil: evil}, comparisons={evil: {}})
    assert_stands_alone(html)
    assert "&lt;script&gt;alert(1)" in html
    runs = {evil: {"summary": summary_of(), "log": LOG}, "b": {"summary": summary_of(), "log": None}}
    write_comparison(tmp_path / "c.html", title=evil, runs=runs)
    assert_stands_alone((tmp_path / "c.html").read_text(encoding="utf-8"))


def test_comparison_says_who_lost_and_whether_intervals_overlap(tmp_path):
    hybrid = summary_of(AP_mono=0.6, AP_multi=0.4996, rank_distance=40.0)
    html = comparison_text(tmp_path / "c.html", hybrid=hybrid, cross=summary_of())
    assert_stands_alone(html)
    # Intervals are +-.01: .6 and .5 apart, .4996 and .5 overlap. Three digits would print .500 twice.
    assert (
        "hybrid against cross: hybrid is better on AP_mono (0.600 against 0.500, intervals apart), "
        "rank_distance (40.0 against 50.0, intervals apart); "
        "cross is better on AP_multi (0.5000 against 0.4996, intervals overlap); "
        "they are equal on AP_cross (0.500 against 0.500, intervals overlap)."
    ) in html


def with_bias(summary):
    """Of three languages: two thirds of a query's first ten in its own language, of which a third of the pool is."""
    first = {q: {p: 4 / 6 if p == q else 1 / 6 for p in LANGUAGES} for q in LANGUAGES}
    return summary | {
        "bias": {
            "Max@R": 61.5,
            "MRC@10": -0.125,
            "intervals": {"Max@R": [60.0, 63.0], "MRC@10": [-0.25, 0.0]},
            "per_language": {name: {"Max@R": 61.5, "MRC@10": None} for name in LANGUAGES},
            "first_10": first,
            "expected": dict.fromkeys(LANGUAGES, 1 / 3),
        }
    }


def test_a_page_says_whose_passages_come_first_where_that_was_measured(tmp_path):
    html = report_text(tmp_path / "report.html", summary=with_bias(summary_of()))
    assert_stands_alone(html)
    for said in ("Whose passages come first", "Max@R", "MRC@10", "own first 10", "pool"):
        assert f">{said}<" in html
    assert "who reads Thai alone wants the Thai passages first" in html
    assert "<td>67%</td><td>33%</td>" in html
    assert "-0.250 to 0.000" in html  # and no dash beside a minus sign
    # An evaluation of an older version has no such measures: its own page is whole, and beside a new one too.
    assert ">Whose passages come first<" not in report_text(tmp_path / "old.html")
    both = comparison_text(tmp_path / "c.html", new=with_bias(summary_of()), old=summary_of())
    assert_stands_alone(both)
    assert both.count("<td>67%</td><td>33%</td>") == 1


def test_paired_tests_and_costs_stand_in_place_of_sentences(tmp_path):
    runs = {name: {"summary": summary_of(), "log": None} for name in ("mine", "free")}
    paired = [
        {"first": "free", "second": "mine", "measure": "rank_distance", "difference": -3.0, "low": -4.0, "high": 1.0,
         "p": 0.25, "questions": 1190, "verdict": "no difference shown"},
        {"first": "free", "second": "mine", "measure": "AP_mono", "difference": 0.1, "low": 0.05, "high": 0.15,
         "p": 0.0001, "questions": 1190, "verdict": "better"},
    ]  # fmt: skip
    costs = {
        "mine": {"parameters": 118_000_000, "dimension": 384, "megabytes": 472.0, "texts_per_s": 61.4},
        "free": {"parameters": None, "dimension": None, "megabytes": None, "texts_per_s": 9000.0},
    }
    write_comparison(tmp_path / "c.html", title="Encoders", runs=runs, paired=paired, costs=costs)
    html = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert_stands_alone(html)
    cells = ["rank_distance", "-3.0", "-4.0 to +1.0", "0.250", "no difference shown"]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in html
    assert "<td>+0.100</td><td>+0.050 to +0.150</td><td>&lt; .001</td><td>better</td>" in html
    assert "<td>118,000,000</td><td>384</td><td>472</td><td>61</td>" in html
    assert "<td>\N{EN DASH}</td><td>\N{EN DASH}</td><td>\N{EN DASH}</td><td>9,000</td>" in html
    assert "intervals overlap" not in html


def test_same_input_gives_the_same_bytes(tmp_path):
    assert report_text(tmp_path / "a.html") == report_text(tmp_path / "b.html")
    runs = {"a": summary_of(), "b": summary_of(AP_mono=0.7)}
    assert comparison_text(tmp_path / "c.html", **runs) == comparison_text(tmp_path / "d.html", **runs)
    for name in ("a.png", "b.png"):
        heat_map_png(tmp_path / name, {"run": summary_of()["matrix"]})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_heat_map_of_three_runs_and_eleven_languages_is_a_small_picture(tmp_path):
    names = [f"l{i}" for i in range(11)]
    matrix = {a: {b: (i * 11 + j) / 121 for j, b in enumerate(names)} for i, a in enumerate(names)}
    matrix["l0"]["l1"] = None
    heat_map_png(tmp_path / "heat.png", {"X-X-mono": matrix, "X-Y": matrix, "hybrid": matrix})
    assert (tmp_path / "heat.png").stat().st_size < 120_000
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.width > 2 * picture.height


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no run to report"):
        write_comparison(tmp_path / "c.html", title="Runs", runs={})

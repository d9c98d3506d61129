"""Measures of language bias: against pencil work, against SciPy, and whatever the order of the candidates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import kruskal, spearmanr
from test_metrics import CANDIDATES, QUERIES, SCORES, evaluate_scores

from hybrid_ir.evaluation.averages import evaluate_collection
from hybrid_ir.evaluation.language_bias import FIRST, first_of, parallel_correlation, share_of_languages
from hybrid_ir.evaluation.measures import relevant_positions, worst_position
from hybrid_ir.evaluation.significance import question_values
from hybrid_ir.measure_names import BIAS
from hybrid_ir.types import Candidate, Query

ENGLISH, GERMAN, THAI = 0, 1, 2


def correlation_of(scores, languages=None):
    """Of parallel queries of one question, each in a language of its own unless said otherwise."""
    scores = np.array(scores, np.float32)
    languages = np.arange(len(scores)) if languages is None else np.array(languages)
    return parallel_correlation(scores, first_of(scores), np.zeros(len(scores), int), languages)


def test_bias_of_two_languages_is_that_worked_by_pencil():
    # The scores and positions stand at the top of test_metrics.py. Four candidates: all are among the first ten.
    summary = evaluate_scores(SCORES).summary["bias"]
    # Max@R: the English queries have their last answer at 3 and 3, the German ones at 4 and 4; (3 + 4) / 2.
    assert summary["Max@R"] == pytest.approx(3.5)
    # MRC: question a: scores 4 1 2 3 and 1 2 3 4, differences of positions 3 1 1 1, rho = 1 - 6 * 12 / (4 * 15) = -.2.
    # Question b: 3 4 1 2 and 2 1 3 4, differences 1 3 2 2, rho = 1 - 6 * 18 / (4 * 15) = -.8. The mean is -.5.
    assert summary["MRC@10"] == pytest.approx(-0.5)
    assert summary["per_language"]["de"] == pytest.approx({"Max@R": 4.0, "MRC@10": -0.5})
    assert summary["first_10"] == {"de": {"de": 0.5, "en": 0.5}, "en": {"de": 0.5, "en": 0.5}}
    assert summary["expected"] == {"de": 0.5, "en": 0.5}


def test_intervals_hold_the_value_and_are_those_of_questions():
    generator = np.random.default_rng(0)
    n = 30
    queries = [Query(f"{lang}-{g}", f"g{g}", lang, "") for lang in ("en", "de") for g in range(n)]
    candidates = [Candidate(f"{lang}-{g}", (f"g{g}",), lang, "", "") for lang in ("en", "de") for g in range(n)]
    vectors = generator.standard_normal((2, 2 * n, 8)).astype(np.float32)
    bias = evaluate_collection(queries, candidates, *vectors, resamples=200).summary["bias"]
    for measure in BIAS:
        low, high = bias["intervals"][measure]
        assert low < bias[measure] < high
    # Thirty equal questions: drawing others changes nothing.
    same = evaluate_scores(np.tile(np.eye(n), (2, 2)), queries, candidates).summary["bias"]
    assert same["intervals"]["Max@R"] == [same["Max@R"]] * 2


def test_worst_position_is_the_last_language_and_its_expectation_in_a_tie():
    relevant = np.array([[True, True, False, False, True]])
    language_C = np.array([ENGLISH, GERMAN, ENGLISH, GERMAN, GERMAN])
    # English stands first. German has positions 2 and 5: its best one counts.
    positions = relevant_positions(np.array([[9, 8, 7, 6, 5]], np.float32), relevant)
    assert worst_position(positions, language_C).tolist() == [2.0]
    # English first, and the two German ones among four that tie at 2 to 5. The first of two places of four is at
    # (4 + 1) / (2 + 1) = 5/3 on average, so behind English at 1 + 5/3.
    positions = relevant_positions(np.array([[9, 8, 8, 8, 8]], np.float32), relevant)
    assert worst_position(positions, language_C) == pytest.approx([1 + 5 / 3])
    # One language is no comparison.
    positions = relevant_positions(
        np.array([[9, 8, 7, 6, 5]], np.float32), np.array([[True, False, True, False, False]])
    )
    assert np.isnan(worst_position(positions, language_C)).all()


def test_correlation_is_one_for_equal_rankings_and_minus_one_for_reversed_ones():
    up = np.arange(12.0)
    assert correlation_of([up, 2 * up + 1]) == pytest.approx([1, 1])
    # With twelve passages, the first ten of one order and of its reverse make up all twelve.
    assert correlation_of([up, -up]) == pytest.approx([-1, -1])
    # Two agree and the third is reversed: each of the two has the mean of 1 and -1, the third of -1 and -1.
    assert correlation_of([up, up, -up]) == pytest.approx([0, 0, -1])


def test_correlation_needs_a_translation_and_leaves_the_own_language_out():
    up = np.arange(12.0)
    assert np.isnan(correlation_of([up])).all()
    assert np.isnan(correlation_of([up, -up], [ENGLISH, ENGLISH])).all()  # two wordings in one language
    assert correlation_of([up, -up, up], [ENGLISH, ENGLISH, GERMAN]) == pytest.approx([1, -1, 0])


def test_a_tie_at_the_cut_is_taken_by_nobody():
    # A lexical ranking: two passages have a common word with the query, and all others score 0. Nothing else is known
    # to be among its first ten, so the union of both is the four passages with a score: 2 1 0 0 and 0 0 2 1, of which
    # the mean positions are 1 2 3.5 3.5 and 3.5 3.5 1 2. Both have variance 4.5; the covariance is -4.
    english, german = np.zeros((2, 40))
    english[[0, 1]] = german[[2, 3]] = 2, 1
    assert correlation_of([english, german]) == pytest.approx([-4 / 4.5] * 2)
    # An encoder that gives all texts one vector has no first ten at all.
    assert np.isnan(correlation_of(np.ones((2, 40)))).all()


def test_correlation_is_scipys_over_the_union_of_both_first_ten():
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 60, (5, 80)).astype(np.float32)  # small numbers, so that many tie
    found = correlation_of(scores)
    # Written from the definition: those surely among the first ten are above the eleventh best score.
    first = [set(np.flatnonzero(row > np.sort(row)[-FIRST - 1])) for row in scores]
    rho = np.full((5, 5), np.nan)
    for a, b in combinations(range(5), 2):
        union = sorted(first[a] | first[b])
        rho[a, b] = rho[b, a] = spearmanr(scores[a, union], scores[b, union])[0]
    assert found == pytest.approx(np.nanmean(rho, axis=1))


def test_share_of_languages_is_by_hand_and_its_expectation_in_a_tie():
    # Twelve passages: eight English, four Thai. The first ten are the eight English ones and two that tie of four.
    language_C = np.array([ENGLISH] * 8 + [THAI] * 4)
    scores = np.array([[9.0] * 8 + [1.0] * 4], np.float32)
    assert share_of_languages(first_of(scores), language_C, 3) == pytest.approx(np.array([[0.8, 0, 0.2]]))
    # All twelve tie: each language has what it has of the pool.
    assert share_of_languages(first_of(np.ones((1, 12))), language_C, 3) == pytest.approx(np.array([[8, 0, 4]]) / 12)
    # Fewer than ten passages are all among the first ten.
    assert share_of_languages(first_of(scores[:, :4]), language_C[:4], 3) == pytest.approx(np.array([[1, 0, 0]]))


def test_bias_does_not_depend_on_how_the_candidates_are_listed():
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 4, SCORES.shape).astype(np.float32)
    order = [2, 0, 3, 1]
    listed = evaluate_scores(scores[:, order], candidates=[CANDIDATES[i] for i in order]).summary["bias"]
    assert listed == evaluate_scores(scores).summary["bias"]


def test_a_question_has_the_mean_of_its_languages(tmp_path):
    pq.write_table(evaluate_scores(SCORES).per_query, tmp_path / "per_query.parquet")
    # Max@R is 3 of each English query and 4 of each German one; MRC as above.
    assert question_values(tmp_path / "per_query.parquet", "Max@R") == {"a": 3.5, "b": 3.5}
    assert question_values(tmp_path / "per_query.parquet", "MRC@10") == pytest.approx({"a": -0.2, "b": -0.8})


def test_queries_of_one_question_meet_though_they_are_listed_apart():
    shuffled = [3, 0, 2, 1]
    whole = evaluate_scores(SCORES).summary["bias"]
    assert evaluate_scores(SCORES[shuffled], [QUERIES[i] for i in shuffled]).summary["bias"] == whole


def test_peer_says_nothing_where_a_language_has_one_answer():
    """Why PEER (arXiv 2405.00978) is not measured: Kruskal and Wallis' H of groups of one is N - 1, for any ranking."""
    generator = np.random.default_rng(3)
    rankings = [np.arange(11), *generator.integers(1, 13_000, (20, 11)), [1] * 10 + [101]]
    assert [kruskal(*ranking[:, None]).statistic for ranking in map(np.array, rankings)] == pytest.approx([10] * 22)
    assert kruskal(*np.arange(11)[:, None]).pvalue == pytest.approx(0.4405, abs=1e-4)

"""Measures, against pencil work, a second implementation and trec_eval."""

from __future__ import annotations

import math
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from hybrid_ir.evaluation.averages import evaluate_collection
from hybrid_ir.evaluation.measures import (
    average_precision,
    best_position,
    rank_distance,
    recall_at,
    relevant_positions,
)
from hybrid_ir.evaluation.resampling import paired_randomization_test
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.types import Candidate, InputError, Query

# Two languages, two questions, four passages. Vectors are chosen so that the scores (dot products) are:
#
#                 en:a  en:b  de:a  de:b      own pool        other pool      all four (position of each relevant)
#   en query a     4     1     2     3        a first: 1      a second: 1/2   a at 1 and 3: (1/1 + 2/3)/2 = 5/6
#   en query b     3     4     1     2        b first: 1      b first: 1      b at 1 and 3: 5/6
#   de query a     1     2     3     4        a second: 1/2   a second: 1/2   a at 2 and 4: (1/2 + 2/4)/2 = 1/2
#   de query b     2     1     3     4        b first: 1      b second: 1/2   b at 1 and 4: (1/1 + 2/4)/2 = 3/4
SCORES = np.array([[4, 1, 2, 3], [3, 4, 1, 2], [1, 2, 3, 4], [2, 1, 3, 4]], np.float32)
QUERIES = [Query(f"{lang}-{group}", group, lang, group) for lang in ("en", "de") for group in ("a", "b")]
CANDIDATES = [Candidate(f"{lang}-{group}", (group,), lang, group, group) for lang in ("en", "de") for group in "ab"]


def evaluate_scores(scores, queries=QUERIES, candidates=CANDIDATES, **options):
    """Scores become dot products when the candidate vectors are the unit vectors."""
    return evaluate_collection(queries, candidates, np.float32(scores), np.eye(len(candidates), dtype="f4"), **options)


def test_averages_of_two_languages_are_those_worked_by_pencil():
    summary = evaluate_scores(SCORES).summary
    # mono: en (1 + 1)/2 = 1, de (1/2 + 1)/2 = 3/4 -> 7/8.   cross: en->de 3/4, de->en 1/2 -> 5/8.
    assert summary["AP_mono"] == pytest.approx(7 / 8)
    assert summary["AP_cross"] == pytest.approx(5 / 8)
    # multi: en 5/6, de (1/2 + 3/4)/2 = 5/8 -> 35/48.
    assert summary["AP_multi"] == pytest.approx(35 / 48)
    # R@1 mono: en 1, de 1/2.  cross: en->de 1/2, de->en 0.  R@10 of four candidates: everything.
    assert (summary["R@1_mono"], summary["R@1_cross"], summary["R@10_multi"]) == (0.75, 0.25, 1.0)
    # Rank distance: en 3-1, 3-1 -> 2; de 4-2, 4-1 -> 5/2; mean 9/4.
    assert summary["rank_distance"] == pytest.approx(9 / 4)
    assert summary["matrix"] == {"de": {"de": 0.75, "en": 0.5}, "en": {"de": 0.75, "en": 1.0}}
    assert summary["per_language"]["de"] == pytest.approx(
        {
            "AP_mono": 0.75,
            "AP_cross_as_query": 0.5,
            "AP_cross_as_passage": 0.75,
            "AP_multi": 0.625,
            "rank_distance": 2.5,
        }
    )


def test_macro_average_weighs_languages_and_not_queries():
    # The English query b is gone: en mono 1, cross 1/2; de as before. Means over languages: 7/8 and (1/2 + 1/2)/2.
    keep = [0, 2, 3]
    summary = evaluate_scores(SCORES[keep], [QUERIES[i] for i in keep]).summary
    assert summary["AP_mono"] == pytest.approx(7 / 8)  # over queries it would be 5/6
    assert summary["AP_cross"] == pytest.approx(1 / 2)
    assert summary["counts"]["queries"] == {"de": 2, "en": 1}


def test_per_query_values_stand_by_query_and_pool():
    rows = {(row["query_id"], row["pool"]): row for row in evaluate_scores(SCORES).per_query.to_pylist()}
    assert len(rows) == 4 * 3
    assert rows["de-b", "all"] == {
        "query_id": "de-b",
        "group_id": "b",
        "language": "de",
        "pool": "all",
        "AP": 0.75,
        "R@1": 0.5,
        "R@10": 1.0,
        "rank_distance": 3.0,
        "Max@R": 4.0,
        "MRC@10": pytest.approx(-0.8),  # tests/test_language_bias.py has it by hand
        "n_relevant": 2,
        "best_position": 1,
    }
    assert rows["en-a", "de"]["best_position"] == 2
    assert rows["en-a", "de"]["rank_distance"] is None


def test_families_average_their_languages_and_a_stranger_is_shown():
    per_family = evaluate_scores(SCORES, families={"en": "Germanic", "de": "Germanic"}).summary["per_family"]
    assert per_family["Germanic"]["languages"] == ["de", "en"]
    assert per_family["Germanic"]["AP_multi"] == pytest.approx(35 / 48)
    assert evaluate_scores(SCORES, families={"en": "Germanic"}).summary["per_family"]["unlisted"]["AP_mono"] == 0.75


def test_query_without_relevant_candidate_is_counted_and_left_out():
    # The German passage of b answers nothing: query b has no relevant candidate in pool de, and no parallel in `all`.
    candidates = [*CANDIDATES[:3], CANDIDATES[3]._replace(group_ids=())]
    evaluation = evaluate_scores(SCORES, candidates=candidates)
    assert evaluation.summary["counts"]["without_relevant"] == 2  # (en-b, de) and (de-b, de)
    assert evaluation.summary["counts"]["without_parallel"] == 2  # en-b and de-b in `all`
    assert evaluation.per_query.num_rows == 12 - 2
    assert evaluation.summary["matrix"]["de"]["de"] == 0.5  # query a alone
    assert evaluation.summary["rank_distance"] == 2.0  # query a alone: 3-1 and 4-2


def test_languages_without_counterpart_are_counted_and_left_out():
    queries = [*QUERIES, Query("fr-a", "a", "fr", "a")]
    candidates = [*CANDIDATES, Candidate("it-a", ("a",), "it", "a", "a")]
    scores = np.vstack([np.hstack([SCORES, np.full((4, 1), 9)]), np.ones((1, 5))])
    summary = evaluate_scores(scores, queries, candidates).summary
    assert summary["languages"] == ["de", "en"]
    assert summary["AP_multi"] == pytest.approx(35 / 48)  # the Italian passage scores highest and is not in the pool
    assert summary["counts"]["outside_languages"] == {"queries": 1, "candidates": 1}


def test_measure_without_cells_is_none():
    summary = evaluate_scores(SCORES[:2, :2], QUERIES[:2], CANDIDATES[:2]).summary
    assert summary["AP_mono"] == 1.0
    assert summary["AP_cross"] is None
    assert summary["rank_distance"] is None
    assert summary["intervals"]["AP_cross"] == [None, None]


def test_equal_scores_share_their_positions():
    scores, relevant = np.array([[1.0, 2.0, 1.0, 1.0]]), np.array([[False, False, True, True]])
    positions = relevant_positions(scores, relevant)
    assert (positions.above_R.tolist(), positions.tied_R.tolist()) == ([1, 1], [3, 3])
    # The two are at 2 and 3, 2 and 4, or 3 and 4: AP is (1/2 + 2/3)/2, (1/2 + 2/4)/2 or (1/3 + 2/4)/2.
    assert average_precision(positions).tolist() == [pytest.approx((7 / 12 + 1 / 2 + 5 / 12) / 3)]
    assert recall_at(2, positions).tolist() == [pytest.approx((1 / 2 + 1 / 2 + 0) / 3)]
    assert best_position(positions).tolist() == [pytest.approx((2 + 2 + 3) / 3)]
    assert rank_distance(positions, np.array([0, 0, 0, 1])).tolist() == [pytest.approx((1 + 2 + 1) / 3)]


def test_an_encoder_with_one_vector_for_all_texts_scores_as_chance_does_and_looks_biased():
    n = 500
    candidates = [Candidate(f"{x}-{i}", (str(i),), x, str(i), str(i)) for x in ("en", "de") for i in range(n)]
    queries = [Query(f"{x}-{i}", str(i), x, str(i)) for x in ("en", "de") for i in range(4)]
    vector = np.float32([0.6, 0.8])

    def measured(order: list[int]) -> dict[str, Any]:
        listed = [candidates[i] for i in order]
        return evaluate_collection(queries, listed, np.tile(vector, (8, 1)), np.tile(vector, (2 * n, 1))).summary

    one, other = measured(list(range(2 * n))), measured(list(range(2 * n))[::-1])
    for name in ("AP_mono", "AP_cross", "AP_multi", "R@1_mono", "R@10_multi", "rank_distance"):
        assert one[name] == pytest.approx(other[name], rel=1e-9), name
    assert one["AP_mono"] == pytest.approx(sum(1 / p for p in range(1, n + 1)) / n)
    assert one["R@10_multi"] == pytest.approx(10 / (2 * n))
    assert one["rank_distance"] == pytest.approx((2 * n + 1) / 3)  # of two places drawn from 2n
    assert one["collapsed"]
    assert not evaluate_scores(SCORES).summary["collapsed"]


def test_recall_at_ten_of_eleven_relevant_ends_at_ten_elevenths():
    positions = relevant_positions(-np.arange(12.0)[None], np.arange(12)[None] < 11)
    assert recall_at(10, positions).tolist() == [pytest.approx(10 / 11)]


def test_best_sentence_of_a_language_counts_for_rank_distance():
    # Positions 1 (language 0), 2 (1), 5 (0): language 0 stands at 1 and language 1 at 2.
    scores, relevant = np.array([[9, 8, 7, 6, 5.0]]), np.array([[True, True, False, False, True]])
    assert rank_distance(relevant_positions(scores, relevant), np.array([0, 1, 1, 1, 0])).tolist() == [1.0]


def one_order(ranking, relevant, language):
    """AP, R@2, best position and rank distance of one query, ranked so."""
    hits, precisions, best = 0, [], {}
    for position, candidate in enumerate(ranking, start=1):
        if relevant[candidate]:
            hits += 1
            precisions.append(hits / position)
            best.setdefault(language[candidate], position)
    if not hits:
        return [math.nan, math.nan, math.inf, math.nan]
    distance = max(best.values()) - min(best.values()) if len(best) >= 2 else math.nan
    return [sum(precisions) / hits, sum(relevant[c] for c in ranking[:2]) / hits, min(best.values()), distance]


def brute_force(scores, relevant, language):
    """The mean over all orders in which equal scores can stand, one query."""
    blocks = [[c for c in range(len(scores)) if scores[c] == score] for score in sorted(set(scores), reverse=True)]
    orders = [sum(chosen, ()) for chosen in product(*(permutations(block) for block in blocks))]
    return np.mean([one_order(order, relevant, language) for order in orders], axis=0)


@given(data=st.data(), n_queries=st.integers(1, 3), n_candidates=st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_measures_with_ties_are_means_over_the_orders_of_a_tie(data, n_queries, n_candidates):
    shape = (n_queries, n_candidates)
    scores = data.draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([-1.0, 0.0, 0.5])))
    relevant = data.draw(hnp.arrays(bool, shape))
    language = data.draw(hnp.arrays(np.int64, n_candidates, elements=st.integers(0, 3)))
    positions = relevant_positions(scores, relevant)
    expected = np.array([brute_force(scores[q].tolist(), relevant[q], language) for q in range(n_queries)])
    np.testing.assert_allclose(average_precision(positions), expected[:, 0])
    np.testing.assert_allclose(recall_at(2, positions), expected[:, 1])
    np.testing.assert_allclose(best_position(positions), expected[:, 2])
    np.testing.assert_allclose(rank_distance(positions, language), expected[:, 3], atol=1e-12)


def test_measures_agree_with_trec_eval():
    generator = np.random.default_rng(7)
    scores = generator.permuted(np.tile(np.arange(60.0), (25, 1)), axis=1)  # no ties
    relevant = generator.random((25, 60)) < 0.1
    relevant[:, 0] = True
    qrels = {f"q{q}": {f"d{c}": int(relevant[q, c]) for c in range(60)} for q in range(25)}
    run = {f"q{q}": {f"d{c}": float(scores[q, c]) for c in range(60)} for q in range(25)}
    reference = pytrec_eval.RelevanceEvaluator(qrels, {"map", "recall.1,10"}).evaluate(run)
    positions = relevant_positions(scores, relevant)
    for values, name in (
        (average_precision(positions), "map"),
        (recall_at(1, positions), "recall_1"),
        (recall_at(10, positions), "recall_10"),
    ):
        np.testing.assert_allclose(values, [reference[f"q{q}"][name] for q in range(25)], rtol=1e-6)


def averages_by_loops(queries, candidates, scores, languages):
    """The paper's averages, from sorted lists and dictionaries: nothing of the code under test."""
    cells, distances, first, tenth = {}, {}, {}, {}
    for q, query in enumerate(queries):
        for pool in (*languages, "all"):
            inside = [c for c, x in enumerate(candidates) if x.language == pool or pool == "all"]
            relevant = [query.group_id in candidates[c].group_ids for c in inside]
            if not any(relevant):
                continue
            row = [scores[q][c] for c in inside]
            ranking = sorted(range(len(row)), key=lambda c: -row[c])
            ap, _, _, distance = one_order(ranking, relevant, [candidates[c].language for c in inside])
            cells.setdefault((query.language, pool), []).append(ap)
            first.setdefault((query.language, pool), []).append(relevant[ranking[0]] / sum(relevant))
            tenth.setdefault((query.language, pool), []).append(sum(relevant[c] for c in ranking[:10]) / sum(relevant))
            if pool == "all" and not math.isnan(distance):
                distances.setdefault(query.language, []).append(distance)

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else None

    def over(values, pools):
        return mean(mean(v) for (language, pool), v in values.items() if pools(language, pool))

    return {
        "AP_mono": over(cells, lambda language, pool: language == pool),
        "AP_cross": over(cells, lambda language, pool: pool not in (language, "all")),
        "AP_multi": over(cells, lambda _, pool: pool == "all"),
        "R@1_mono": over(first, lambda language, pool: language == pool),
        "R@1_cross": over(first, lambda language, pool: pool not in (language, "all")),
        "R@10_multi": over(tenth, lambda _, pool: pool == "all"),
        "rank_distance": mean(mean(v) for v in distances.values()),
    }


@pytest.mark.parametrize("seed", range(12))
def test_averages_of_a_ragged_collection_agree_with_plain_loops(seed):
    """Groups that a language lacks, several relevant passages of one language, distractors; no ties."""
    generator = np.random.default_rng(seed)
    languages, groups = ("de", "en", "th"), [f"g{i}" for i in range(9)]
    queries = [Query(f"{x}-{g}", g, x, "") for x in languages for g in groups if generator.random() < 0.8]
    candidates = [
        Candidate(f"{x}-{i}", tuple(generator.choice(groups, generator.integers(0, 3), replace=False)), x, "", "")
        for x in languages
        for i in range(generator.integers(4, 12))
    ]
    ranks = np.tile(np.arange(len(candidates), dtype=np.float32), (len(queries), 1))
    scores = generator.permuted(ranks, axis=1)
    summary = evaluate_scores(scores, queries, candidates, resamples=0).summary
    expected = averages_by_loops(queries, candidates, scores.tolist(), languages)
    assert {measure: summary[measure] for measure in MEASURES} == pytest.approx(expected)


def random_collection(seed, n_groups=40):
    generator = np.random.default_rng(seed)
    languages = ("de", "en", "th")
    queries = [Query(f"{lang}-{g}", f"g{g}", lang, "") for lang in languages for g in range(n_groups)]
    candidates = [Candidate(f"{lang}-{g}", (f"g{g}",), lang, "", "") for lang in languages for g in range(n_groups)]
    meaning = np.tile(generator.standard_normal((n_groups, 8)), (3, 1))
    vectors = [(meaning + 0.9 * generator.standard_normal(meaning.shape)).astype(np.float32) for _ in range(2)]
    return queries, candidates, *vectors


def test_intervals_hold_the_measures_and_repeat_with_the_seed():
    collection = random_collection(1)
    first, again, other = (evaluate_collection(*collection, seed=seed, resamples=200).summary for seed in (5, 5, 6))
    assert first == again
    assert first["intervals"] != other["intervals"]
    for measure in MEASURES:
        low, high = first["intervals"][measure]
        assert low < first[measure] < high


def test_interval_of_identical_questions_has_no_width():
    # Every question scores alike, so drawing other questions changes nothing.
    n = 5
    queries = [Query(f"{lang}-{g}", f"g{g}", lang, "") for lang in ("en", "de") for g in range(n)]
    candidates = [Candidate(f"{lang}-{g}", (f"g{g}",), lang, "", "") for lang in ("en", "de") for g in range(n)]
    summary = evaluate_scores(np.tile(np.eye(n), (2, 2)), queries, candidates).summary
    assert summary["intervals"]["AP_mono"] == [1.0, 1.0]


def test_small_blocks_give_the_same_evaluation(monkeypatch):
    collection = random_collection(2)
    whole = evaluate_collection(*collection, resamples=0)
    monkeypatch.setattr("hybrid_ir.evaluation.scores.MAX_SCORES", 7 * 120)
    blocks = evaluate_collection(*collection, resamples=0)
    assert whole.summary == blocks.summary
    key = [("query_id", "ascending"), ("pool", "ascending")]
    assert whole.per_query.sort_by(key).equals(blocks.per_query.sort_by(key))


def test_paired_test_tells_equal_from_different():
    generator = np.random.default_rng(3)
    a = generator.random(200)
    assert paired_randomization_test(a, a, seed=1, rounds=500) == 1.0
    assert paired_randomization_test(a, generator.permutation(a), seed=1, rounds=500) > 0.9  # equal means
    assert paired_randomization_test(a, a - 0.1, seed=1, rounds=500) == pytest.approx(1 / 501)


def test_paired_test_of_three_pairs_is_exact_in_the_limit():
    # All three differences favour a: of 8 sign patterns, +++ and --- are as extreme, so p = 1/4.
    p = paired_randomization_test(np.array([1, 2, 3.0]), np.zeros(3), seed=0, rounds=20_000)
    assert p == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": []}, "no query"),
        ({"candidates": []}, "no candidate"),
        ({"query_vectors": np.full((4, 4), np.nan, np.float32)}, "4 query vectors hold NaN"),
        ({"candidate_vectors": np.zeros((4, 3), np.float32)}, "4 dimensions, candidate vectors 3"),
        ({"query_vectors": np.zeros((3, 4), np.float32)}, "one row for each of 4 texts"),
        ({"query_vectors": np.full((4, 4), 3e38, np.float32), "candidate_vectors": np.full((4, 4), 9.0)}, "finite"),
        ({"queries": [QUERIES[0]._replace(query_id=str(i), language="fr") for i in range(4)]}, "no language has both"),
        ({"queries": [q._replace(group_id="z") for q in QUERIES]}, "no query has a relevant candidate"),
        ({"queries": [QUERIES[0]] * 4}, "stands 4 times"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_wrong_input_is_named(change, message):
    arguments = {
        "queries": QUERIES,
        "candidates": CANDIDATES,
        "query_vectors": SCORES,
        "candidate_vectors": np.eye(4, dtype=np.float32),
    }
    with pytest.raises(InputError, match=message):
        evaluate_collection(**(arguments | change))

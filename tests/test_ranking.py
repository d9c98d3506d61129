"""Streamed ranking and its measures: against a whole sort, trec_eval called directly, and pencil work."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings, strategies as st

from hybrid_ir.evaluation.ranking import measure_run, rank_passages, write_run
from hybrid_ir.types import InputError, Passage

NAMES = {"nDCG@10": "ndcg_cut_10", "R@100": "recall_100", "AP": "map", "AP@20": "map_cut_20"}


def passages_of(vectors):
    """Passages whose text is their row, and an encoder that looks the row up."""
    return [Passage(f"d{i}", str(i)) for i in range(len(vectors))], lambda texts, _: vectors[[int(t) for t in texts]]


def read_run(path):
    run = {}
    for line in path.read_text().splitlines():
        query_id, _, doc_id, position, score, _ = line.split()
        ranked = run.setdefault(query_id, {})
        ranked[doc_id] = float(score)
        assert int(position) == len(ranked)
    return run


def test_the_best_of_a_stream_do_not_depend_on_the_chunks():
    generator = np.random.default_rng(1)
    queries, vectors = (generator.standard_normal((n, 8)).astype(np.float32) for n in (7, 200))
    passages, encode = passages_of(vectors)
    scores = queries @ vectors.T
    expected = [{f"d{c}" for c in np.argsort(-row)[:30]} for row in scores]
    for chunk in (1, 7, 30, 64, 1000):
        best, n_passages = rank_passages(queries, iter(passages), encode, depth=30, chunk=chunk)
        run = best.run([f"q{i}" for i in range(7)])
        assert n_passages == 200
        assert [set(ranked) for ranked in run.values()] == expected
        for i, ranked in enumerate(run.values()):
            np.testing.assert_allclose([*ranked.values()], np.sort(scores[i])[::-1][:30], rtol=1e-5)


def test_of_equal_scores_at_the_cut_the_same_stay_in_whatever_order_and_chunks_they_come():
    vectors = np.float32([[0.5], [1], [0.5], [0.5], [0.25]])
    passages, encode = passages_of(vectors)
    for order in permutations(range(5)):
        for chunk in (1, 2, 5):
            listed = [passages[i] for i in order]
            best, _ = rank_passages(np.float32([[1]]), listed, encode, depth=3, chunk=chunk)
            assert list(best.run(["q"])["q"].items()) == [("d1", 1.0), ("d3", 0.5), ("d2", 0.5)]


def test_small_blocks_of_scores_rank_alike(monkeypatch):
    generator = np.random.default_rng(2)
    queries, vectors = (generator.standard_normal((n, 4)).astype(np.float32) for n in (9, 40))
    passages, encode = passages_of(vectors)
    whole = rank_passages(queries, passages, encode, depth=5)[0].run([str(i) for i in range(9)])
    monkeypatch.setattr("hybrid_ir.evaluation.ranking.MAX_SCORES", 90)  # two queries at a time
    blocks = rank_passages(queries, passages, encode, depth=5)[0].run([str(i) for i in range(9)])
    assert [list(ranked) for ranked in whole.values()] == [list(ranked) for ranked in blocks.values()]


def test_no_more_than_a_chunk_of_the_corpus_is_held():
    drawn, encoded = [], []

    def stream():
        for i in range(1000):
            drawn.append(i)
            yield Passage(f"d{i}", "")

    def encode(texts, languages):
        assert len(drawn) - len(encoded) <= 64
        encoded.extend(texts)
        return np.ones((len(texts), 2), np.float32)

    assert rank_passages(np.ones((1, 2), np.float32), stream(), encode, depth=10, chunk=64)[1] == 1000


def test_measures_of_one_ranking_are_those_worked_by_pencil():
    # Ranking a b c d; relevant are b, d and z, which is not ranked.
    # AP: (1/2 + 2/4) / 3 = 1/3.  R@100: 2/3.  AP@20: as AP.
    # nDCG@10: DCG 1/log2(3) + 1/log2(5); ideal, three relevant: 1 + 1/log2(3) + 1/log2(4).
    measured = measure_run(
        {"q": {"b": 1, "d": 1, "z": 1, "a": 0}},
        {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}},
        ["nDCG@10", "R@100", "AP", "AP@20"],
    )
    gain = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2)
    assert {name: values.tolist() for name, values in measured.items()} == {
        "nDCG@10": [pytest.approx(gain)],
        "R@100": [pytest.approx(2 / 3)],
        "AP": [pytest.approx(1 / 3)],
        "AP@20": [pytest.approx(1 / 3)],
    }


@pytest.mark.parametrize(("position", "value"), [(1, 1.0), (4, 0.25), (20, 0.05), (21, 0.0), (30, 0.0)])
def test_ap_at_20_of_one_relevant_is_its_reciprocal_position_and_nothing_below_the_20th(position, value):
    run = {"q": {f"d{i}": 100.0 - i for i in range(1, 41)}}
    assert measure_run({"q": {f"d{position}": 1}}, run, ["AP@20"])["AP@20"].tolist() == [pytest.approx(value)]


def test_a_query_that_the_run_lacks_scores_zero_and_stays_in_the_mean():
    measured = measure_run({"q1": {"a": 1}, "q2": {"a": 1}}, {"q2": {"a": 1.0}}, ["AP"])
    assert measured["AP"].tolist() == [0.0, 1.0]


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 5, 1000]), n_passages=st.sampled_from([5, 150]))
@settings(max_examples=40, deadline=None)
def test_our_run_files_measure_what_trec_eval_says_of_the_full_ranking(tmp_path_factory, seed, levels, n_passages):
    """With ties, and with relevant passages that no ranking holds. The file holds every passage: depth is no matter."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(0, levels, (n_passages, 1)).astype(np.float32)
    queries = generator.choice([-1.0, 1.0, 0.3], (4, 1)).astype(np.float32)
    passages, encode = passages_of(vectors)
    query_ids = [f"q{i}" for i in range(4)]
    qrels = {q: {f"d{c}": int(generator.random() < 0.2) for c in range(n_passages + 2)} | {"d0": 1} for q in query_ids}
    run = rank_passages(queries, passages, encode, depth=1000, chunk=17)[0].run(query_ids)
    path = tmp_path_factory.mktemp("run") / "xx.trec"
    write_run(path, run)

    reference = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "map", "map_cut.20"})
    of_scores = reference.evaluate(
        {q: {f"d{c}": float(queries[i, 0] * vectors[c, 0]) for c in range(n_passages)} for i, q in enumerate(query_ids)}
    )
    of_file = reference.evaluate(read_run(path))
    measured = measure_run(qrels, run, list(NAMES))
    for name, theirs in NAMES.items():
        np.testing.assert_allclose(measured[name], [of_scores[q][theirs] for q in query_ids], rtol=1e-6)
        np.testing.assert_allclose(measured[name], [of_file[q][theirs] for q in query_ids], rtol=1e-6)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_measures_agree_with_plain_loops_over_the_positions_of_the_run_file(tmp_path_factory, seed):
    generator = np.random.default_rng(seed)
    scores = {f"d{i}": float(generator.integers(0, 6)) for i in range(130)}
    relevant = {f"d{i}": 1 for i in generator.choice(140, 12, replace=False)}
    path = tmp_path_factory.mktemp("run") / "xx.trec"
    write_run(path, {"q": scores})
    order = [line.split()[2] for line in path.read_text().splitlines()]
    hits, precisions, dcg = 0, 0.0, 0.0
    for position, doc_id in enumerate(order, start=1):
        if doc_id in relevant:
            hits += 1
            precisions += hits / position
            dcg += 1 / math.log2(1 + position) if position <= 10 else 0.0
    ideal = sum(1 / math.log2(1 + position) for position in range(1, 11))
    measured = measure_run({"q": relevant}, {"q": scores}, ["AP", "nDCG@10", "R@100"])
    assert measured["AP"][0] == pytest.approx(precisions / 12)
    assert measured["nDCG@10"][0] == pytest.approx(dcg / ideal)
    assert measured["R@100"][0] == pytest.approx(sum(d in relevant for d in order[:100]) / 12)


def test_a_run_file_is_read_whole(tmp_path):
    write_run(tmp_path / "runs" / "sw.trec", {"q1": {"b#1": 0.5, "a#0": 0.25}, "q2": {"a": 0.1, "b": 0.1}}, "tag")
    assert (tmp_path / "runs" / "sw.trec").read_text().splitlines() == [
        "q1 Q0 b#1 1 0.5 tag",
        "q1 Q0 a#0 2 0.25 tag",
        "q2 Q0 b 1 0.1 tag",  # equal scores: the higher doc_id first, as trec_eval reads it
        "q2 Q0 a 2 0.1 tag",
    ]


def test_an_id_with_white_space_has_no_place_in_a_run_file(tmp_path):
    with pytest.raises(InputError, match="'a b' has white space in its id"):
        write_run(tmp_path / "x.trec", {"q": {"a b": 1.0}})


def test_vectors_that_cannot_be_ranked_are_named():
    passages, encode = passages_of(np.float32([[1, np.nan]]))
    with pytest.raises(InputError, match=r"passage vectors .* hold NaN"):
        rank_passages(np.ones((1, 2), np.float32), passages, encode, depth=1)
    with pytest.raises(InputError, match=r"query vectors .* hold NaN"):
        rank_passages(np.full((1, 2), np.inf), passages, encode, depth=1)
    with pytest.raises(InputError, match=r"1 passages have vectors of shape \(1, 2\), queries of \(1, 3\)"):
        rank_passages(np.ones((1, 3), np.float32), passages, lambda texts, _: np.ones((1, 2), np.float32), depth=1)


def test_a_passage_that_stands_twice_is_named():
    twice = [Passage("a", ""), Passage("b", ""), Passage("a", "")]
    best, _ = rank_passages(np.ones((1, 1)), twice, lambda texts, _: np.ones((len(texts), 1)), depth=9, chunk=1)
    with pytest.raises(InputError, match="passage 'a' stands more than once"):
        best.run(["q"])

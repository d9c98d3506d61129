"""BM25 over postings: what it counts and how it scores, beside a plain loop and beside bm25s, whole and in parts."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hybrid_ir.lexical import (
    Postings,
    best_rows,
    count_terms,
    fuse,
    make_postings,
    open_postings,
    read_statistics,
    score_passages,
    write_postings,
    write_statistics,
)
from hybrid_ir.words import words_of

TEXTS = [
    "The Rhine ends in the North Sea.",
    "Der Rhein endet in der Nordsee. Der Rhein!",
    "東京は日本の首都です",
    "京",
    "แม่น้ำไรน์",
    "",
    "sea sea SEA ﬁn",
    "?!",
]


def plain_scores(texts: list[str], query: str, living=None) -> list[float]:
    """BM25 as the formula stands in the module, one passage after the other."""
    documents = [words_of(text) for text in texts]
    there = [d for n, d in enumerate(documents) if living is None or living[n]]
    average = sum(map(len, there)) / max(1, len(there))
    scores = []
    for document in documents:
        total = 0.0
        for term, times in sorted(Counter(words_of(query)).items()):
            having, f = sum(term in other for other in there), document.count(term)
            if f and having:
                idf = math.log(1 + (len(there) - having + 0.5) / (having + 0.5))
                total += times * idf * f / (f + 1.2 * (1 - 0.75 + 0.75 * len(document) / average))
        scores.append(total)
    return scores


def term_list(postings: Postings) -> list[str]:
    return [term.decode() for term in postings.terms]


def test_postings_say_who_has_a_term_and_how_often():
    made = make_postings(TEXTS)
    assert term_list(made) == sorted({word for text in TEXTS for word in words_of(text)})
    place = made.terms.find("sea")
    assert place is not None
    some = slice(made.starts[place], made.starts[place + 1])
    assert made.rows[some].tolist() == [0, 6]
    assert made.frequencies[some].tolist() == [1, 3]
    assert made.lengths.tolist() == [len(words_of(text)) for text in TEXTS]
    assert made.terms.find("東京") is not None  # a pair, and a character alone where it stands alone
    assert [made.terms.find(term) for term in ("seas", "東", "", "\ud800")] == [None] * 4
    assert made.terms.find("fin") is not None  # the compatibility form of a ligature


def test_a_word_that_stands_a_thousand_times_is_counted_so_often():
    assert make_postings(["a " * 1000, "a"]).frequencies.tolist() == [1000, 1]
    assert make_postings(["a " * 70_000]).frequencies.tolist() == [70_000]


def test_texts_without_any_word_are_no_error():
    nothing = make_postings(["", "?"])
    statistics = count_terms([(nothing, None)])
    assert (len(nothing.terms), statistics.passages, statistics.words) == (0, 2, 0)
    assert score_passages(nothing, statistics.query("a b")).tolist() == [0, 0]
    assert make_postings([]).lengths.tolist() == []


@pytest.mark.parametrize("query", ["sea", "the sea in the north sea", "Rhein Nordsee", "日本の東京", "น้ำ", "nobody"])
def test_scores_are_those_of_a_plain_loop(query):
    made = make_postings(TEXTS)
    scores = score_passages(made, count_terms([(made, None)]).query(query))
    np.testing.assert_array_equal(scores, np.float32(plain_scores(TEXTS, query)))


def test_scores_are_those_of_bm25s():
    bm25s = pytest.importorskip("bm25s")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.zipf(1.3, size=rng.integers(1, 60)) if n < 500) or "w1" for _ in range(500)]
    vocabulary = {word: n for n, word in enumerate(sorted({word for text in texts for word in text.split()}))}
    ranker = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    ranker.index(
        ([[vocabulary[word] for word in text.split()] for text in texts], vocabulary),
        create_empty_token=False, show_progress=False,
    )  # fmt: skip
    made = make_postings(texts)
    statistics = count_terms([(made, None)])
    for text in texts[:20]:
        theirs = ranker.get_scores_from_ids([vocabulary[word] for word in text.split()])
        np.testing.assert_allclose(score_passages(made, statistics.query(text)), theirs, rtol=1e-5, atol=1e-6)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "ee", "東京", "京都", "x1"]), max_size=8).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(WORDS, min_size=1, max_size=24),
    query=WORDS,
    draw=st.randoms(use_true_random=False),
    k=st.integers(1, 30),
)
def test_any_cut_of_the_living_passages_gives_the_whole_bit_for_bit(texts, query, draw, k):
    living = [draw.random() < 0.7 for _ in texts]
    living[draw.randrange(len(texts))] = True
    alive = [text for text, lives in zip(texts, living, strict=True) if lives]
    whole = make_postings(alive)
    statistics = count_terms([(whole, None)])
    right = score_passages(whole, statistics.query(query))
    ids = np.flatnonzero(living)
    order = best_rows(right, k)

    parts = [[n for n in range(len(texts)) if draw.random() < 0.5]]
    parts.append([n for n in range(len(texts)) if n not in parts[0]])
    cut = []
    for part in parts:
        draw.shuffle(part)
        cut.append((make_postings([texts[n] for n in part]), np.asarray([living[n] for n in part], dtype=bool)))
    counted = count_terms(cut)
    assert counted.query(query) == statistics.query(query)
    assert (list(counted.terms), counted.counts.tolist()) == (list(statistics.terms), statistics.counts.tolist())
    found = []
    for part, (postings, lives) in zip(parts, cut, strict=True):
        scores, numbers = score_passages(postings, counted.query(query)), np.asarray(part, dtype=np.int64)
        rows = best_rows(scores, k, numbers, [(0, len(part))], lives)
        np.testing.assert_array_equal(rows, best_rows(scores, k, numbers, np.flatnonzero(lives)))
        found += [(-float(scores[row]), part[row]) for row in rows]
    assert sorted(found)[:k] == [(-float(right[row]), int(ids[row])) for row in order]


def test_equal_scores_go_by_id_and_who_has_no_term_is_not_found():
    scores = np.float32([1, 2, 0, 2, 2])
    assert best_rows(scores, 2).tolist() == [1, 3]
    assert best_rows(scores, 2, np.asarray([9, 8, 7, 6, 5])).tolist() == [4, 3]
    assert best_rows(scores, 9).tolist() == [1, 3, 4, 0]
    assert best_rows(scores, 9, among=[(0, 2), (4, 5)]).tolist() == [1, 4, 0]


def test_files_hold_what_was_made_and_equal_texts_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_postings(tmp_path / name, make_postings(TEXTS))
    for name in ("terms.arrow", "lengths.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    made, opened = make_postings(TEXTS), open_postings(tmp_path / "a")
    assert list(made.terms) == list(opened.terms)
    for one, other in zip(made[1:], opened[1:], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    counted = count_terms([(opened, None)])
    write_statistics(tmp_path / "counts.arrow", counted)
    again = read_statistics(tmp_path / "counts.arrow", counted.passages, counted.words)
    assert again.query("the sea 東京") == counted.query("the sea 東京")


def test_a_file_of_something_else_is_refused(tmp_path):
    write_postings(tmp_path, make_postings(TEXTS))
    with pytest.raises(ValueError, match="columns"):
        read_statistics(tmp_path / "terms.arrow", 8, 8)
    np.save(tmp_path / "lengths.npy", np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="postings of 3 passages"):
        open_postings(tmp_path)
    (tmp_path / "terms.arrow").write_bytes(b"ARROW1 or not")
    with pytest.raises(ValueError, match="not an Arrow file"):
        open_postings(tmp_path)


def test_reciprocal_ranks_are_those_of_cormack():
    fused = fuse([(7, 0.9), (5, 0.8)], [(5, 3.0), (1, 2.0)], "rrf")
    assert [(one.passage, one.score) for one in fused] == [(5, 1 / 62 + 1 / 61), (7, 1 / 61), (1, 1 / 62)]
    assert fused[0].dense == (2, 0.8)
    assert fused[0].lexical == (1, 3.0)
    assert (fused[1].lexical, fused[2].dense) == (None, None)


def test_a_weighted_sum_brings_both_to_one_scale():
    dense, lexical = [(7, 0.9), (5, 0.8), (2, 0.7)], [(5, 4.0), (1, 1.0)]
    fused = fuse(dense, lexical, "weighted", 0.25)
    assert [one.passage for one in fused] == [7, 5, 1, 2]
    scores = {one.passage: one.score for one in fused}
    assert scores == pytest.approx({7: 0.75, 5: 0.375 + 0.25, 1: 0.0625, 2: 0.0})
    assert [one.passage for one in fuse(dense, lexical, "weighted", 0.0)][:2] == [7, 5]
    assert [one.passage for one in fuse(dense, lexical, "weighted", 1.0)][:2] == [5, 1]


@pytest.mark.parametrize("fusion", ["rrf", "weighted"])
def test_one_empty_ranking_leaves_the_other_in_its_order_and_ties_go_by_id(fusion):
    some = [(4, 0.5), (9, 0.4)]
    assert [one.passage for one in fuse(some, [], fusion)] == [4, 9]
    assert [one.passage for one in fuse([], some, fusion)] == [4, 9]
    assert fuse([], [], fusion) == []
    assert [one.passage for one in fuse([(4, 0.5)], [(3, 0.5)], fusion, 0.5)] == [3, 4]

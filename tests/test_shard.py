"""Sharding must not show: the same ids and scores from any cut, and those are the right ones."""

from __future__ import annotations

import json
import threading

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import open_index, search, unit, write_index
from plain_filter import passes

from hybrid_ir.index import query as query_module
from hybrid_ir.index.filters.form import Absent, Between, Filter, OneOf
from hybrid_ir.index.folder import checksum_of, read_manifest
from hybrid_ir.index.passage_table import canonical
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import Found, ShardQuery, merge
from hybrid_ir.index.searching import exact as exact_module, nearest as nearest_module
from hybrid_ir.index.searching.exact import as_float32, exact_scores, exact_top
from hybrid_ir.index.searching.living import Living
from hybrid_ir.index.searching.nearest import NearestLists
from hybrid_ir.index.searching.recent import Recent
from hybrid_ir.index.searching.threads import in_parts
from hybrid_ir.index.shard import open_shard

LANGUAGES = ("de", "en", "es", "sw")
D = 16


def make_passages(count: int, seed: int = 0):
    """Passages of four languages (Swahili: about 1 %) and two metadata keys; every tenth vector stands there five
    times.
    """
    rng = np.random.default_rng(seed)
    languages = rng.choice(LANGUAGES, size=count, p=(0.4, 0.35, 0.24, 0.01))
    passages = []
    for n, language in enumerate(languages):
        metadata = {"year": 2000 + n % 3} if n % 2 else {"year": 2000 + n % 3, "kind": "news" if n % 4 else "blog"}
        passages.append(IndexedPassage(f"doc-{n}", f"text {n}", str(language), metadata))
    centres = rng.normal(size=(20, D))
    vectors = unit(centres[rng.integers(20, size=count)] + 0.5 * rng.normal(size=(count, D)))
    for n in range(0, count - 50, 50):
        vectors[n : n + 50 : 10] = vectors[n]
    return passages, vectors


COUNT = 3000
PASSAGES, VECTORS = make_passages(COUNT)


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    """{(codec, shards, sharding): open shards}; the Flat, IVF and IVF+SQ8 of one corpus, cut in several ways."""
    made = {}
    for codec in ("Flat", "IVF32,Flat", "IVF32,SQ8"):
        for count, sharding in ((1, "language"), (2, "language"), (5, "language"), (5, "random")):
            folder = tmp_path_factory.mktemp("index") / "i"
            manifest = write_index(folder, PASSAGES, VECTORS, codec=codec, shards=count, sharding=sharding)
            made[codec, count, sharding] = open_index(folder, manifest)
    return made


def brute_force(query, k, keep):
    """(id, score) of the best of all products, ties by id."""
    scores = np.einsum("cd,d->c", VECTORS, query)
    ids = sorted((n for n in range(COUNT) if keep(PASSAGES[n])), key=lambda n: (-scores[n], n))
    return [(n, float(scores[n])) for n in ids[:k]]


def equal(**metadata) -> Filter:
    return Filter(must=tuple(OneOf(key, (canonical(value),)) for key, value in metadata.items()))


filters = st.tuples(
    st.none() | st.sets(st.sampled_from(LANGUAGES), min_size=1).map(lambda s: tuple(sorted(s))),
    st.sampled_from(
        [
            None,
            equal(year=2001),
            equal(kind="news", year=2002),
            equal(kind="none"),
            equal(x=1),
            Filter(must=(Between("year", (("gte", 2001.0),), False),), must_not=(OneOf("kind", ('"news"',)),)),
            Filter(should=(Absent("kind"), Between("year", (("lt", 2001.0),), False))),
        ]
    ),
)
asked = st.lists(
    st.tuples(st.integers(0, COUNT - 1), st.booleans(), st.integers(1, 60), filters), min_size=1, max_size=30
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=asked, small=st.booleans())
def test_every_cut_gives_the_ids_and_scores_of_the_monolith(indices, monkeypatch, asked, small):
    # Language filters go through the inverted lists too, unless they are small.
    monkeypatch.setattr(query_module, "EXACT_BELOW", 100 if small else 20_000)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(asked), D)) * 0.1
    # Stored vectors as queries have ties among their five copies; moved ones have not.
    vectors = unit(np.stack([VECTORS[n] + noise[i] * moved for i, (n, moved, _, _) in enumerate(asked)]))
    queries = [ShardQuery(k, languages, where) for _, _, k, (languages, where) in asked]
    for codec in ("Flat", "IVF32,Flat", "IVF32,SQ8"):
        whole = search(indices[codec, 1, "language"], vectors, queries)
        for key, shards in indices.items():
            if key[0] == codec:
                assert search(shards, vectors, queries) == whole, key
        # Alone or in a batch, a query has one answer.
        assert search(indices[codec, 5, "random"], vectors[:1], queries[:1]) == whole[:1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=asked, small=st.booleans(), size=st.integers(1, 25))
def test_pages_of_any_cut_put_together_are_one_answer(indices, monkeypatch, asked, small, size):
    """Page after page of `size` hits, through ties and through inverted lists: the first 60 in their order."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", 100 if small else 20_000)
    vectors = VECTORS[[n for n, *_ in asked]]
    for codec in ("Flat", "IVF32,Flat", "IVF32,SQ8"):
        one = [ShardQuery(60, languages, where, 60) for *_, (languages, where) in asked]
        whole = search(indices[codec, 1, "language"], vectors, one)
        pages: list[list[tuple[int, float]]] = [[] for _ in asked]
        for number, start in enumerate(range(0, 60, size)):
            end = min(start + size, 60)
            shards = indices[codec, (1, 2, 5)[number % 3], "language"]
            for page, found in zip(pages, search(shards, vectors, [q._replace(k=end) for q in one]), strict=True):
                page.extend(found[start:end])
        assert pages == whole


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=asked)
def test_flat_is_exact_ties_by_id_filters_before_the_cut(indices, asked):
    vectors = VECTORS[[n for n, *_ in asked]]
    queries = [ShardQuery(k, languages, where) for _, _, k, (languages, where) in asked]
    for i, found in enumerate(search(indices["Flat", 2, "language"], vectors, queries)):
        _, languages, where, *_ = queries[i]

        def keep(p, languages=languages, where=where):
            return (languages is None or p.language in languages) and (where is None or passes(where, p.metadata))

        expected = brute_force(vectors[i], queries[i].k, keep)
        assert [n for n, _ in found] == [n for n, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=0, atol=1e-7)


@pytest.mark.parametrize("codec", ["IVF32,RaBitQ", "IVF32,RaBitQ4", "IVF32,PQ8x4fs"])
def test_a_coarse_codec_answers_as_the_whole_and_finds_more_with_more_candidates(tmp_path, codec):
    """Codes of a bit or four, by which many passages tie: what is asked of every list is still one answer in any cut.
    Of 20 candidates a hit all of the right passages are among those that are scored exactly, of 4 they are not."""
    rng = np.random.default_rng(3)
    vectors = unit(VECTORS[rng.choice(COUNT, 60, replace=False)] + 0.1 * rng.normal(size=(60, D)))
    queries = [ShardQuery(10, languages) for languages in (None, ("de",), ("de", "en"))] * 20
    found = {}
    for candidates in (1, 20):
        for count, sharding in ((1, "language"), (3, "language"), (3, "random")):
            folder = tmp_path / f"{candidates}-{count}-{sharding}"
            manifest = write_index(
                folder, PASSAGES, VECTORS, codec=codec, shards=count, sharding=sharding, nprobe=32,
                candidates=candidates,
            )  # fmt: skip
            answers = search(open_index(folder, manifest), vectors, queries)
            assert answers == found.setdefault(candidates, answers), (candidates, count, sharding)
    recall = {}
    for candidates, answers in found.items():
        shares = []
        for vector, query, hits in zip(vectors, queries, answers, strict=True):
            languages = query.languages or LANGUAGES
            right = {n for n, _ in brute_force(vector, 10, lambda p, names=languages: p.language in names)}
            shares.append(len(right & {n for n, _ in hits}) / 10)
        recall[candidates] = np.mean(shares)
    assert recall[20] > 0.97
    assert recall[1] < recall[20] - 0.02


def test_an_index_says_how_many_candidates_it_takes(tmp_path):
    """They are part of what an answer depends on, so of the version; an index of before says nothing, and takes 4."""
    four, eight = (
        write_index(tmp_path / str(n), PASSAGES, VECTORS, codec="IVF32,SQ8", shards=1, candidates=n) for n in (4, 8)
    )
    assert four.index_version != eight.index_version
    assert read_manifest(tmp_path / "8").candidates == 8
    content = json.loads((tmp_path / "4" / "manifest.json").read_text())
    del content["candidates"]
    (tmp_path / "4" / "manifest.json").write_text(json.dumps(content | {"checksum": checksum_of(content)}))
    old = read_manifest(tmp_path / "4")
    assert (old.candidates, old.index_version) == (4, four.index_version)
    (shard,) = open_index(tmp_path / "8", eight)
    assert len(shard.search(VECTORS[:1], [ShardQuery(10)])[0].ids) == 80


@pytest.mark.parametrize("codec", ["IVF32,Flat", "IVF32,SQ8"])
def test_a_small_language_is_found_whole_where_a_search_without_filter_visits_few_lists(indices, codec):
    swahili = [n for n, p in enumerate(PASSAGES) if p.language == "sw"]
    query = VECTORS[swahili[:1]]
    (found,) = search(indices[codec, 2, "language"], query, [ShardQuery(len(swahili), ("sw",))])
    assert sorted(n for n, _ in found) == swahili


def test_a_language_keeps_its_answer_however_many_filters_are_asked_for_besides(indices, monkeypatch):
    """What was asked for last is kept, and FAISS points into it: nothing of a language may go while a part stays."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", 100)
    shards = indices["IVF32,SQ8", 1, "language"]
    german = [ShardQuery(10, ("de",))]
    wanted = search(shards, VECTORS[:1], german)
    for year in range(200):
        search(shards, VECTORS[:1], [ShardQuery(10, ("de",), equal(year=year))])
        # What was let go is written over.
        others = [np.zeros(-(-COUNT // 8), np.uint8) for _ in range(50)]
        assert search(shards, VECTORS[:1], german) == wanted, (year, len(others))


def test_a_tie_wider_than_the_margin_is_cut_by_id():
    """100 equal vectors: BLAS may return any 20 of them; the answer is the first four."""
    vectors = np.tile(unit(np.ones((1, D))), (100, 1))
    ((scores, rows),) = exact_top(vectors[:1], vectors, [(0, 100)], 4)
    assert sorted(rows) == list(range(100))
    assert np.ptp(scores) == 0
    rows = np.sort(rows)  # a shard gives equal scores by id
    part = Found(scores, scores, rows, rows)
    assert [hit.global_id for hit in merge([part], 4, lossy=False)] == [0, 1, 2, 3]


def test_merge_cuts_by_codec_score_before_it_orders_by_exact_score():
    """Of 60 candidates with a lossy codec 40 are scored; the best exact scores are among the 20 that are not."""
    codec_scores = np.linspace(1, 0, 60, dtype=np.float32)
    scores = np.linspace(0, 1, 60, dtype=np.float32)
    ids = np.arange(60)
    best_first = (slice(None, None, -2), slice(-2, None, -2))
    halves = [Found(codec_scores[h], scores[h], ids[h], ids[h]) for h in best_first]
    assert [hit.global_id for hit in merge(halves, 3, lossy=True)] == [39, 38, 37]
    assert [hit.global_id for hit in merge(halves, 3, lossy=False)] == [59, 58, 57]


@pytest.mark.parametrize("dimension", [7, 16, 33, 384])
def test_a_score_does_not_depend_on_what_is_scored_beside_it(dimension):
    rng = np.random.default_rng(dimension)
    vectors, query = rng.normal(size=(300, dimension)).astype(np.float32), rng.normal(size=dimension).astype(np.float32)
    alone = np.asarray([exact_scores(query, vectors[n : n + 1])[0] for n in range(300)])
    for count in range(2, 60):
        rows = rng.integers(300, size=count)
        at = rng.integers(8)  # another place in memory
        moved = np.empty(count * dimension + 8, np.float32)[at : at + count * dimension].reshape(count, dimension)
        moved[:] = vectors[rows]
        np.testing.assert_array_equal(exact_scores(query, moved), alone[rows])
    np.testing.assert_allclose(alone, vectors.astype(np.float64) @ query, atol=2e-5)
    # Several queries, each with rows of its own.
    rows = rng.integers(300, size=(9, 41))
    together = exact_scores(np.stack([query, -query, 2 * query] * 3), vectors[rows])
    np.testing.assert_array_equal(together, alone[rows] * np.asarray([1, -1, 2] * 3, np.float32)[:, None])


def test_every_float16_becomes_the_equal_float32():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(halves)
    assert finite.sum() == 2**16 - 2**11  # the largest exponent, of both signs, is infinity and NaN
    made, expected = as_float32(halves[finite]), halves[finite].astype(np.float32)
    np.testing.assert_array_equal(made.view(np.uint32), expected.view(np.uint32))  # so -0.0 is not 0.0
    for half in halves[~finite][:: 2**4]:
        made = as_float32(np.asarray([1, half, 2], np.float16))
        np.testing.assert_array_equal(made, np.asarray([1, half, 2], np.float32))


@pytest.mark.parametrize("dimension", [7, 16, 384])
@pytest.mark.parametrize("block", [64, 16_384])
def test_a_scan_of_mapped_float16_finds_the_best_exact_scores(tmp_path, monkeypatch, dimension, block):
    """Alone and in a batch, of ranges and of single rows, and with ties: every fifth vector stands there twice."""
    monkeypatch.setattr(exact_module, "BLOCK", block)
    rng = np.random.default_rng(dimension)
    vectors = unit(rng.normal(size=(500, dimension))).astype(np.float16)
    vectors[1::5] = vectors[::5]
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.asarray(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    queries = unit(vectors[[0, 250, 499]].astype(np.float32) + 0.1 * rng.normal(size=(3, dimension)))
    single = np.sort(rng.choice(500, size=200, replace=False))
    asked = [([(0, 500)], np.arange(500)), ([(3, 90), (200, 470)], np.r_[3:90, 200:470]), (single, single)]
    for rows, numbers in asked:
        together = exact_top(queries, mapped, rows, 10)
        for n, query in enumerate(queries):
            scores = {int(row): float(exact_scores(query, vectors[row : row + 1])[0]) for row in numbers}
            tenth = sorted(scores.values())[-10]
            expected = {row: score for row, score in scores.items() if score >= tenth}
            alone = exact_top(queries[n : n + 1], mapped, rows, 10)[0]
            for found in (together[n], alone):
                assert dict(zip(found[1].tolist(), found[0].tolist(), strict=True)) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_a_scan_passes_over_deleted_rows_and_counts_them_once(monkeypatch, dtype, share):
    """Blocks of 64: some have all of their rows, some a part, and one has none."""
    monkeypatch.setattr(exact_module, "BLOCK", 64)
    rng = np.random.default_rng(3)
    vectors = unit(rng.normal(size=(500, 16))).astype(dtype)
    there = np.ones(500, bool)
    there[64:192] = rng.random(128) >= share
    there[256:320] = False
    living, ranges = Living(there), [(3, 90), (100, 470)]
    numbers = np.flatnonzero(there & np.isin(np.arange(500), np.r_[3:90, 100:470]))
    queries = unit(vectors[[0, 250, 499]].astype(np.float32) + 0.1 * rng.normal(size=(3, 16)))
    first = exact_top(queries, vectors, ranges, 10, living)
    for query, (scores, rows) in zip(queries, first, strict=True):
        expected = {int(row): float(exact_scores(query, vectors[row : row + 1])[0]) for row in numbers}
        best = dict(sorted(expected.items(), key=lambda each: -each[1])[:10])
        assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == best
    living._there = None  # who would count again would raise
    for one, again in zip(first, exact_top(queries, vectors, ranges, 10, living), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))


def test_shards_of_one_process_find_the_nearest_lists_of_a_batch_once(tmp_path, monkeypatch):
    manifest = write_index(tmp_path / "i", PASSAGES, VECTORS, codec="IVF32,SQ8", shards=3)
    calls = []
    find = nearest_module.nearest_lists

    def counted(queries, quantizer, count, centroids):
        calls.append(count)
        return find(queries, quantizer, count, centroids)

    monkeypatch.setattr(nearest_module, "nearest_lists", counted)
    queries = [ShardQuery(10)] * 2
    together = search(open_index(tmp_path / "i", manifest), VECTORS[:2], queries)
    assert len(calls) == 1
    apart = [open_shard(tmp_path / "i", manifest, n) for n in range(3)]
    assert search(apart, VECTORS[:2], queries) == together
    assert len(calls) == 4
    # Other queries have other lists.
    (first,) = search(apart, VECTORS[2:3], queries[:1])
    assert first[0][0] == 2
    assert len(calls) == 7


@pytest.mark.parametrize("count", [1, 8, 40])
def test_a_query_has_the_same_nearest_lists_alone_and_in_a_batch(count):
    """Alone they are found by FAISS's loop, in a batch by a matrix product: numbers and scores are equal to the bit."""
    rng = np.random.default_rng(count)
    centroids, queries = unit(rng.normal(size=(200, D))), unit(rng.normal(size=(50, D)))
    centroids[7] = centroids[150]  # a tie goes to the lower number
    queries[0] = centroids[7]
    quantizer = faiss.IndexFlatIP(D)
    quantizer.add(centroids)
    lists, scores = NearestLists().find(queries, quantizer, count)
    for n in range(len(queries)):
        alone = NearestLists().find(queries[n : n + 1], quantizer, count)
        np.testing.assert_array_equal(lists[n], alone[0][0])
        np.testing.assert_array_equal(scores[n], alone[1][0])
    np.testing.assert_allclose(scores, -np.sort(-(queries @ centroids.T), axis=1)[:, :count], atol=1e-6)
    assert lists[0, 0] == 7


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("lists", [5, 64, 1000])
def test_products_in_pieces_are_the_products(monkeypatch, count, lists):
    monkeypatch.setattr(nearest_module, "PRODUCT", 32 * D * count)
    rng = np.random.default_rng(lists)
    queries, centroids = (rng.integers(-9, 9, size=(n, D)).astype(np.float32) for n in (count, lists))
    np.testing.assert_array_equal(nearest_module.products(queries, centroids), queries @ centroids.T)


@pytest.fixture
def faiss_threads():
    before = faiss.omp_get_max_threads()
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "rows", "sizes"), [(3, 32, [10, 11, 11]), (3, 9, [4, 5]), (3, 7, [7]), (1, 9, [9])]
)
def test_a_batch_is_cut_into_a_part_a_thread_in_order(faiss_threads, threads, rows, sizes):
    faiss_threads(threads)
    there = threading.get_ident()
    parts = in_parts(rows, lambda part: (part, faiss.omp_get_max_threads(), threading.get_ident() == there))
    assert [part.stop - part.start for part, _, _ in parts] == sizes
    assert [row for part, _, _ in parts for row in range(rows)[part]] == list(range(rows))
    assert {faiss_has for _, faiss_has, _ in parts} == {threads if len(sizes) == 1 else 1}
    assert [here for _, _, here in parts] == [True] + [False] * (len(sizes) - 1)
    assert faiss.omp_get_max_threads() == threads
    with pytest.raises(ZeroDivisionError):
        in_parts(rows, lambda part: 1 // (part.stop - rows))


def test_threads_do_not_show(tmp_path, faiss_threads):
    manifest = write_index(tmp_path / "i", PASSAGES, VECTORS, codec="IVF32,SQ8", shards=2)
    shards = open_index(tmp_path / "i", manifest)
    queries = [ShardQuery(10 + n % 2, ("en",) if n % 3 == 0 else None) for n in range(50)]
    faiss_threads(1)
    expected = [search(shards, VECTORS[n : n + 1], queries[n : n + 1])[0] for n in range(50)]
    for threads in (2, 3):
        faiss_threads(threads)
        assert search(open_index(tmp_path / "i", manifest), VECTORS[:50], queries) == expected


def test_the_value_that_was_not_asked_for_longest_makes_room():
    made = []
    recent = Recent(2)
    for key in "aabacab":
        assert recent.get(key, lambda key=key: made.append(key) or key.upper()) == key.upper()
    # c takes the place of b, for a was asked for after b; and b that of c.
    assert made == ["a", "b", "c", "b"]


def test_a_shard_that_did_not_answer_is_left_out_of_the_merge():
    part = Found(*(np.asarray([0.5, 0.4], dtype=np.float32),) * 2, np.asarray([7, 8]), np.asarray([0, 1]))
    assert [(hit.shard, hit.row) for hit in merge([None, part], 5, lossy=False)] == [(1, 0), (1, 1)]
    assert merge([None, None], 5, lossy=False) == []

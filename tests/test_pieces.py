"""Long passages in pieces: where they are cut, and that an index finds each by its best piece, as brute force does."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from contextlib import nullcontext
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TEXTS, make_preset
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import ask, search, unit, write_index, write_jsonl
from placements import LOCAL, clients_of
from starlette.testclient import TestClient
from test_shard import LANGUAGES, D
from typed_commands import split as split_command
from without_ray import without_ray

from hybrid_ir.cli import app as cli
from hybrid_ir.config.experiment import Index, Serve
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.config.search import Pieces
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.long_texts.pieces import cut_into_pieces
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.index import query as query_module, ray_stages
from hybrid_ir.index.build import build_index, verify_index
from hybrid_ir.index.changes.change import add_passages, delete_passages, replace_passages
from hybrid_ir.index.changes.compact import compact_index
from hybrid_ir.index.folder import checksum_of, read_manifest
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.pieces.entry import PiecesOf
from hybrid_ir.index.query import ShardQuery, is_flat, merge
from hybrid_ir.index.tombstones import bury, rows_of
from hybrid_ir.index.vectors.made import encode_passages
from hybrid_ir.index.writing import make_manifest, open_shards
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.reranking.scorer import Scored
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError
from hybrid_ir.words import words_of

PAGE = (Path(__file__).parents[1] / "docs" / "index_passages.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXTS).split()
HOW = Pieces(tokens=28, overlap=4)
SETTINGS = Index(recall_target=0, recall_sample=5, pieces=HOW, precision="fp32")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """It reads 32 tokens, its prefix among them."""
    folder = make_preset(tmp_path_factory.mktemp("reader") / "preset")
    return TextReader.of(load_encoder(str(folder), query_prefix="query: ", passage_prefix="passage: "))


# Where texts are cut

words = st.sampled_from(
    [*WORDS, "</s>", "<mask>", "กรุงเทพมหานครเป็นเมืองหลวง" * 3, "東京は日本の首都です。" * 4, "x" * 90, "हिन्दी"]
)
texts = st.lists(words, min_size=1, max_size=60).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(text=texts, overlap=st.integers(0, 3))
def test_pieces_are_parts_that_cover_the_text_overlap_and_are_read_whole(reader, text, overlap):
    table = cut_into_pieces(reader, [text], tokens=20, overlap=overlap)
    spans = table[:, 1:].tolist()
    assert table[:, 0].tolist() == [0] * len(spans)
    whole = TextReader(reader.tokenizer, reader.prefixes, 20, reader.control_tokens)
    assert not whole.read([text[a:b] for a, b in spans], "document").cut.any()
    assert all(text[a:b].strip() == text[a:b] != "" for a, b in spans)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    for (a, b), (c, d) in pairwise(spans):
        assert a < c
        assert b < d
        assert not text[b:c].strip(), "nothing but space is between two pieces"
    if len(reader.read([text], "document")[0]) <= 20:
        assert len(spans) == 1


def test_words_stay_whole_and_the_overlap_is_that_of_the_end_before(reader):
    """Of 20 tokens the prefix, `<s>` and `</s>` take some; a piece's words are the text's, in their order."""
    text = " ".join(f"{word}{n}" for n, word in enumerate(["river", "capital", "long", "Seine"] * 20))
    said = text.split()
    table = cut_into_pieces(reader, [text, "river"], tokens=32, overlap=8)
    assert table[-1].tolist() == [1, 0, 5]
    pieces = [text[a:b].split() for _, a, b in table[:-1].tolist()]
    starts = [said.index(piece[0]) for piece in pieces]
    for start, piece in zip(starts, pieces, strict=True):
        assert said[start : start + len(piece)] == piece
    for (start, piece), following in zip(zip(starts, pieces, strict=True), starts[1:], strict=False):
        shared = said[following : start + len(piece)]
        tokens = sum(len(row) - 2 for row in reader.tokenizer(shared)["input_ids"]) if shared else 0
        assert 0 <= tokens <= 8
    assert any(
        following < start + len(piece) for start, piece, following in zip(starts, pieces, starts[1:], strict=False)
    )


@pytest.mark.parametrize(
    ("tokens", "overlap", "said"),
    [
        (33, 2, r"index\.pieces\.tokens=33 is more than the 32 tokens that the encoder reads; set it to 32 or less"),
        (
            20,
            9,
            r"index\.pieces\.tokens=20 leaves \d+ for a piece's own words .*\.overlap=9 must be less",
        ),
    ],
)
def test_what_cannot_be_cut_so_is_refused_before_any_text(reader, tokens, overlap, said):
    with pytest.raises(InputError, match=said):
        cut_into_pieces(reader, [], tokens=tokens, overlap=overlap)


def test_a_tokenizer_that_does_not_say_where_tokens_stand_is_refused(reader):
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"tokenizer \(Slow\) does not say where its tokens stand"):
        cut_into_pieces(TextReader(Slow(), reader.prefixes, 32), ["a"], tokens=16, overlap=0)


def test_an_overlap_of_half_a_piece_is_refused_where_it_is_typed():
    with pytest.raises(InputError, match=r"overlap=16 must be less than half of tokens=32"):
        load_experiment(None, ["index.pieces.tokens=32", "index.pieces.overlap=16"])
    with pytest.raises(InputError, match=r"overlap=16 needs tokens"):
        load_experiment(None, ["index.pieces.overlap=16"])


# Max passage, in any cut into shards

COUNT = 700
CODECS = ("Flat", "IVF8,SQ8", "IVF8,PQ8x4fs")


def made_up():
    """Passages of one to twelve pieces, one of 150; pieces of a passage are alike, and every tenth is another's."""
    rng = np.random.default_rng(5)
    counts = rng.choice([1, 1, 2, 3, 12], size=COUNT)
    counts[7] = 150
    owner = np.repeat(np.arange(COUNT, dtype=np.int32), counts)
    centres = rng.normal(size=(COUNT, D))
    vectors = centres[owner] + 0.7 * rng.normal(size=(len(owner), D))
    for n in range(0, len(owner), 10):
        vectors[n] = vectors[rng.integers(0, n + 1)]
    within = np.arange(len(owner)) - np.searchsorted(owner, owner)
    table = np.stack([owner, 10 * within, 10 * within + 15], axis=1).astype(np.int32)
    languages = rng.choice(LANGUAGES, size=COUNT, p=(0.4, 0.35, 0.24, 0.01))
    passages = [
        IndexedPassage(f"doc-{n}", f"text {n}", str(language), {"year": 2000 + n % 3})
        for n, language in enumerate(languages)
    ]
    return passages, unit(vectors), table


PASSAGES, VECTORS, TABLE = made_up()


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    """{(codec, shards, sharding): (folder, manifest)}."""
    made = {}
    for codec in CODECS:
        for count, sharding in ((1, "language"), (3, "language"), (4, "random")):
            folder = tmp_path_factory.mktemp("pieces") / "i"
            manifest = write_index(
                folder, PASSAGES, VECTORS, codec=codec, shards=count, sharding=sharding, pieces=TABLE, nprobe=2
            )
            made[codec, count, sharding] = folder, manifest
    return made


def brute_force(query, k, keep):
    """(id, score, piece) of the passages with the best pieces, ties by id, of equal pieces the first."""
    scores = np.einsum("cd,d->c", VECTORS, query)
    best: dict[int, int] = {}
    for piece, owner in enumerate(TABLE[:, 0].tolist()):
        if keep(owner) and (owner not in best or scores[piece] > scores[best[owner]]):
            best[owner] = piece
    order = sorted(best, key=lambda n: (-scores[best[n]], n))
    return [(n, float(scores[best[n]]), tuple(TABLE[best[n], 1:].tolist())) for n in order[:k]]


def answers(shards, vectors, queries, candidates=4):
    """(id, score, piece) of the hits of each query."""
    lossy = not is_flat(shards[0].totals.codec)
    parts = [shard.search(vectors, queries) for shard in shards]
    return [
        [(h.global_id, h.score, h.piece) for h in merge([p[i] for p in parts], q.k, lossy, q.among, candidates)]
        for i, q in enumerate(queries)
    ]


asked = st.lists(
    st.tuples(
        st.integers(0, len(VECTORS) - 1),
        st.integers(1, 60),
        st.none() | st.sets(st.sampled_from(LANGUAGES), min_size=1).map(lambda s: tuple(sorted(s))),
    ),
    min_size=1,
    max_size=12,
)
OFTEN = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@OFTEN
@given(asked=asked, gone=st.sets(st.integers(1, COUNT - 1), max_size=300))
def test_any_cut_of_long_passages_answers_as_brute_force_also_without_some(indices, monkeypatch, asked, gone):
    """Ids, scores, ties, language filters and the pieces; a Flat codec is exact, and a lossy one the same in any cut.
    Of what is deleted nothing is found, and the number of hits is as if it had never been there."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", 50)
    vectors = VECTORS[[n for n, *_ in asked]]
    queries = [ShardQuery(k, languages) for _, k, languages in asked]
    names = [f"doc-{n}" for n in gone]
    for codec in CODECS:
        found = {}
        for key, (folder, manifest) in indices.items():
            if key[0] != codec:
                continue
            shards = open_shards(folder, without(folder, manifest, names), checksums=False)
            found[key] = answers(shards, vectors, queries)
            assert answers(shards, vectors[:1], queries[:1]) == found[key][:1], "alone as in a batch"
        first, *others = found.values()
        assert all(other == first for other in others), codec
        for query, (_, k, languages), hits in zip(vectors, asked, first, strict=True):
            expected = brute_force(
                query, k, lambda n, ls=languages: n not in gone and (ls is None or PASSAGES[n].language in ls)
            )
            assert len(hits) == len(expected), "k passages are found where there are so many"
            if codec == "Flat":
                assert [(n, piece) for n, _, piece in hits] == [(n, piece) for n, _, piece in expected]
                np.testing.assert_allclose([s for _, s, _ in hits], [s for _, s, _ in expected], rtol=0, atol=1e-6)


def without(folder, manifest, names):
    """The manifest of the index without the passages of these names."""
    if not names:
        return manifest
    entries = bury(folder, manifest.shards, rows_of(folder, manifest, names))
    parts = {"codec": manifest.codec, "sharding": manifest.sharding, "keys": [], "rejected": {}, "settings": {}}
    return make_manifest(
        folder, space=manifest.space, probes=np.zeros((0, D)), shards=entries, files=manifest.files,
        nprobe=manifest.nprobe, pieces=(64, 16), **parts,
    )  # fmt: skip


def test_a_lossy_codec_that_visits_all_lists_scores_a_passage_by_its_best_piece(indices):
    """Of all passages as candidates none is lost, so the codec's errors do not show."""
    folder, manifest = indices["IVF8,SQ8", 3, "language"]
    shards = open_shards(folder, manifest.model_copy(update={"nprobe": 8, "candidates": 100}), checksums=False)
    for n in (0, 33, 150):
        hits = answers(shards, VECTORS[n : n + 1], [ShardQuery(20)], candidates=100)[0]
        expected = brute_force(VECTORS[n], 20, lambda _: True)
        halves = VECTORS.astype(np.float16).astype(np.float32)
        assert [h[0] for h in hits[:3]] == [e[0] for e in expected[:3]]
        for doc, score, (start, _) in hits:
            own = np.flatnonzero(TABLE[:, 0] == doc)
            scores = np.einsum("cd,d->c", halves[own], VECTORS[n])
            assert score == pytest.approx(float(scores.max()), abs=1e-6)
            assert TABLE[own[int(scores.argmax())], 1] == start


@pytest.mark.parametrize("shards", [1, 3])
def test_lists_are_visited_until_there_are_enough_passages_whatever_one_of_them_fills(tmp_path, shards):
    """The nearest list holds 200 pieces, all of one passage; the 30 other passages are in the other three."""
    rng = np.random.default_rng(1)
    owner = np.concatenate([np.zeros(200, np.int32), np.arange(1, 31, dtype=np.int32)])
    centres = np.eye(4, D)[np.where(owner == 0, 0, 1 + owner % 3)]
    table = np.stack([owner, np.zeros_like(owner), np.ones_like(owner)], axis=1)
    passages = [IndexedPassage(f"doc-{n}", "text", "en") for n in range(31)]
    vectors = unit(centres + 0.05 * rng.normal(size=(len(owner), D)))
    manifest = write_index(
        tmp_path / "i", passages, vectors, codec="IVF4,SQ8", shards=shards, sharding="random", pieces=table, nprobe=1
    )
    shards_open = open_shards(tmp_path / "i", manifest)
    (hits,) = answers(shards_open, vectors[:1], [ShardQuery(10)])
    assert len(hits) == 10
    assert hits[0][0] == 0


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 6) | st.just(500), min_size=1, max_size=12), wanted=st.integers(1, 14))
def test_so_many_pieces_are_surely_of_so_many_passages_and_not_one_less(sizes, wanted):
    """The worst choice takes passages whole, those with the most pieces first."""
    pieces = PiecesOf(tokens=64, overlap=0, vectors=sum(sizes), most=max(sizes), long={}, passages=Counter(sizes))
    owners = [n for n, size in enumerate(sorted(sizes, reverse=True)) for _ in range(size)]
    enough = pieces.enough(wanted)
    assert len(set(owners[: enough - 1])) == min(wanted - 1, len(sizes))
    if wanted <= len(sizes):
        assert len(set(owners[:enough])) == wanted
    else:
        assert enough > len(owners), "all are looked at"
    before = pieces.model_copy(update={"passages": None})  # a manifest that was written before they were counted
    assert before.enough(wanted) == 1 + (wanted - 1) * max(sizes) >= enough


def test_one_book_among_letters_does_not_widen_every_search(tmp_path):
    """The 300 pieces of one passage are alike, and 600 other passages are in some fifteen lists. For 40 candidates 339
    pieces are enough: half of the lists or so, where 40 times 300 are all of them."""
    owner = np.concatenate([np.zeros(300, np.int32), np.arange(1, 601, dtype=np.int32)])
    rng = np.random.default_rng(2)
    vectors = unit(np.eye(16, D)[np.where(owner == 0, 0, 1 + owner % 15)] + 0.01 * rng.normal(size=(len(owner), D)))
    table = np.stack([owner, np.zeros_like(owner), np.ones_like(owner)], axis=1)
    passages = [IndexedPassage(f"doc-{n}", "text", "en") for n in range(601)]
    manifest = write_index(tmp_path / "i", passages, vectors, codec="IVF16,SQ8", shards=1, pieces=table, nprobe=1)
    assert manifest.pieces.passages == {1: 600, 300: 1}
    (shard,) = open_shards(tmp_path / "i", manifest)
    visited = [(shard._nearest_lists(vectors[n : n + 1], 40, ShardQuery(10))[0] >= 0).sum() for n in (0, 301, 502)]
    assert max(visited) < 12, visited
    for n in (0, 301, 502):
        hits = answers([shard], vectors[n : n + 1], [ShardQuery(10)])[0]
        assert len(hits) == 10
        assert hits[0][0] == owner[n]


def test_a_manifest_from_before_passages_were_counted_is_read_and_finds_as_many(indices):
    folder, manifest = indices["IVF8,SQ8", 3, "language"]
    content = json.loads((folder / "manifest.json").read_text())
    del content["pieces"]["passages"]
    content["checksum"] = checksum_of(content)
    old = folder.with_name("before")
    shutil.copytree(folder, old, copy_function=os.link)
    (old / "manifest.json").unlink()
    (old / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(old).pieces == manifest.pieces.model_copy(update={"passages": None})
    shards = open_shards(old, read_manifest(old), checksums=False)
    assert [len(hits) for hits in answers(shards, VECTORS[:3], [ShardQuery(k) for k in (1, 20, 60)])] == [1, 20, 60]


def test_an_index_from_before_passages_were_counted_is_compacted(tmp_path, monkeypatch):
    """Its searches visit most lists, as 340 pieces each may be of one passage: of 600 others have a piece."""
    without_ray(monkeypatch)
    sizes = np.array([1] * 300 + [300] + [1] * 300)
    table = np.stack([np.repeat(np.arange(601), sizes), np.zeros(900), np.ones(900)], axis=1).astype(np.int32)
    vectors = unit(np.random.default_rng(0).normal(size=(900, D)) + 2)
    passages = [IndexedPassage(f"doc-{n}", "a" * 300, "en", {}) for n in range(601)]
    manifest = write_index(tmp_path / "i", passages, vectors, codec="IVF16,SQ8", shards=2, pieces=table, nprobe=1)
    content = json.loads((tmp_path / "i" / "manifest.json").read_text())
    del content["pieces"]["passages"]
    content["checksum"] = checksum_of(content)
    (tmp_path / "i" / "manifest.json").write_text(json.dumps(content))
    compacted = compact_index(str(tmp_path / "i"), Index(recall_target=0), seed=0)
    assert len(compacted.shards) == 1
    assert compacted.pieces == manifest.pieces


def test_the_manifest_counts_vectors_and_long_passages(indices):
    _, manifest = indices["Flat", 3, "language"]
    counts = np.bincount(TABLE[:, 0])
    assert manifest.pieces.passages == Counter(counts.tolist())
    assert manifest.format == 4
    assert (manifest.rows, manifest.pieces.vectors, manifest.pieces.most) == (COUNT, len(TABLE), 150)
    assert sum(manifest.pieces.long.values()) == int((counts > 1).sum())
    folder, whole = indices["Flat", 4, "random"]
    left = without(folder, whole, ["doc-7"])
    assert (left.pieces.vectors, left.pieces.most) == (len(TABLE) - 150, 12)
    assert search(open_shards(folder, left, checksums=False), VECTORS[:1], [ShardQuery(COUNT)])[0]


# A build, and what becomes of its index


def said(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


LONG = [
    IndexedPassage(f"{language}/{n}", said(length, n), language, {"year": 2000 + n % 3, "group": n // 2})
    for n, (language, length) in enumerate(zip(("de", "en") * 12, (4, 60, 9, 130, 3, 25) * 4, strict=True))
]
NEW = [IndexedPassage("en/new", said(90, 100), "en"), LONG[1]._replace(text=said(80, 101))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An encoder of 32 tokens, passages, and an index of them in two shards."""
    root = tmp_path_factory.mktemp("made")
    make_preset(root / "preset")
    model = load_encoder(str(root / "preset"), query_prefix="query: ", passage_prefix="passage: ")
    model.save_pretrained(str(root / "encoder"), create_model_card=False)
    write_jsonl(root / "passages.jsonl", LONG)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        build(root, root / "index")
    return root


def build(root, out, pieces=HOW, passages="passages.jsonl", shards=2, **more):
    settings = SETTINGS.model_copy(update={"pieces": pieces, "shards": shards})
    return build_index(str(root / "encoder"), [str(root / passages)], str(out), settings, seed=0, **more)


def pieces_of(root, passages):
    """(doc_id, first, end) of every piece, and their vectors."""
    model = encoder(root)
    table = cut_into_pieces(TextReader.of(model), [p.text for p in passages], tokens=HOW.tokens, overlap=HOW.overlap)
    parts = [(passages[n].doc_id, a, b) for n, a, b in table.tolist()]
    texts = [passages[n].text[a:b] for n, a, b in table.tolist()]
    return parts, encode(model, texts, role="document", precision="fp32")


@cache
def encoder(root):
    return load_encoder(str(root / "encoder"))


def by_best_piece(parts, vectors, query):
    """[(doc_id, score, piece)] of all passages, best first."""
    best = {}
    for (doc_id, a, b), score in zip(parts, (vectors @ query).tolist(), strict=True):
        if doc_id not in best or score > best[doc_id][0]:
            best[doc_id] = score, (a, b)
    order = sorted(best, key=lambda doc_id: -best[doc_id][0])
    return [(doc_id, *best[doc_id]) for doc_id in order]


def check_answers(root, folder, passages):
    """That the index finds what brute force finds: of each passage its last piece as the query."""
    manifest = read_manifest(folder)
    shards = open_shards(folder, manifest)
    parts, vectors = pieces_of(root, passages)
    last = {doc_id: n for n, (doc_id, *_) in enumerate(parts)}
    queries = [ShardQuery(50)] * len(last)
    answers = [shard.search(vectors[list(last.values())], queries) for shard in shards]
    for i, (doc_id, n) in enumerate(last.items()):
        hits = merge([answer[i] for answer in answers], 50, not is_flat(manifest.codec))
        found = [(shards[h.shard].passages[h.row].doc_id, h.score, h.piece) for h in hits]
        assert found[0] == (doc_id, pytest.approx(1, abs=1e-3), parts[n][1:])
        expected = by_best_piece(parts, vectors, vectors[n])
        assert sorted(name for name, *_ in found) == sorted(name for name, *_ in expected)
        wanted = {name: score for name, score, _ in expected}
        assert [score for _, score, _ in found] == pytest.approx([wanted[name] for name, *_ in found], abs=1e-3)


def test_a_build_counts_what_it_cuts_and_every_end_is_found(made):
    parts, _ = pieces_of(made, LONG)
    manifest = verify_index(str(made / "index"), SETTINGS, seed=0)
    several = [p.language for p in LONG if sum(name == p.doc_id for name, *_ in parts) > 1]
    assert len(parts) > len(LONG) + 20
    assert (manifest.pieces.vectors, manifest.rows, manifest.cut) == (len(parts), len(LONG), {})
    assert manifest.pieces.long == {name: several.count(name) for name in sorted(set(several))}
    check_answers(made, made / "index", LONG)


def test_without_pieces_nothing_changes_and_the_ends_are_counted_as_cut(made, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    manifest = build(made, tmp_path / "index", Pieces())
    assert (manifest.format, manifest.pieces) == (2, None)
    assert sum(manifest.cut.values()) == sum(len(p.text.split()) > 20 for p in LONG)
    content = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert "pieces" not in content, "older programs read it"
    assert not list((tmp_path / "index").rglob("pieces.npy"))


@pytest.mark.parametrize("codec", ["Flat", "IVF4,SQ8"])
def test_passages_are_added_replaced_deleted_and_compacted_with_their_pieces(made, tmp_path, monkeypatch, codec):
    """Additions are cut as the index was built, whatever is asked for then."""
    without_ray(monkeypatch)
    folder, other = tmp_path / "index", SETTINGS.model_copy(update={"pieces": Pieces(), "shards": None})
    settings = SETTINGS.model_copy(update={"codec": codec, "shards": 2})
    build_index(str(made / "encoder"), [str(made / "passages.jsonl")], str(folder), settings, seed=0)
    add_passages(str(folder), [write_jsonl(tmp_path / "a.jsonl", NEW[:1])], other, seed=0)
    replace_passages(str(folder), [write_jsonl(tmp_path / "r.jsonl", NEW[1:])], other, seed=0)
    delete_passages(str(folder), [LONG[3].doc_id, LONG[4].doc_id], other, seed=0)
    left = [p for p in LONG if p.doc_id not in {LONG[1].doc_id, LONG[3].doc_id, LONG[4].doc_id}] + NEW
    manifest = read_manifest(folder)
    assert (manifest.rows, manifest.pieces.vectors) == (len(left), len(pieces_of(made, left)[0]))
    assert manifest.settings["pieces"] == {"tokens": HOW.tokens, "overlap": HOW.overlap}
    if codec == "Flat":
        check_answers(made, folder, left)
    compacted = compact_index(str(folder), other, seed=0)
    assert len(compacted.shards) == 1
    assert (compacted.pieces, compacted.format) == (manifest.pieces, 4)
    check_answers(made, folder, left)
    verify_index(str(folder), settings, seed=0)


def test_what_goes_with_a_vector_a_passage_is_refused_with_nothing_written(made, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    encode_passages(str(made / "encoder"), [str(made / "passages.jsonl")], str(tmp_path / "v"), Index(recall_target=0))
    with pytest.raises(InputError, match=r"tokens=28 cuts passages into pieces, and --vectors has a vector a passage"):
        build(made, tmp_path / "index", vectors=str(tmp_path / "v"))
    with pytest.raises(
        InputError, match=r"tokens=28 cuts passages into pieces, and `encode` writes a vector a passage"
    ):
        encode_passages(str(made / "encoder"), [str(made / "passages.jsonl")], str(tmp_path / "w"), SETTINGS)
    with pytest.raises(InputError, match=r"tokens=64 is more than the 32 tokens that the encoder reads"):
        build(made, tmp_path / "index", Pieces(tokens=64))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v"]


def test_an_unfinished_build_goes_on_with_the_same_pieces_alone(made, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    whole = ray_stages._EncodeFragment.__call__
    monkeypatch.setattr(ray_stages._EncodeFragment, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(made, tmp_path / "index")
    monkeypatch.setattr(ray_stages._EncodeFragment, "__call__", whole)
    with pytest.raises(
        InputError, match=r"with index\.pieces\.tokens=28 and \.overlap=4, not .*tokens=null; delete it"
    ):
        build(made, tmp_path / "index", Pieces())
    assert build(made, tmp_path / "index").index_version == read_manifest(made / "index").index_version


@pytest.mark.slow
def test_actors_cut_as_this_process_does(made, tmp_path, ray_cluster):
    settings = SETTINGS.model_copy(update={"cpus_per_actor": 0.5, "shards": 2})
    manifest = build_index(str(made / "encoder"), [str(made / "passages.jsonl")], str(tmp_path / "i"), settings, seed=0)
    assert manifest.pieces == read_manifest(made / "index").pieces
    check_answers(made, tmp_path / "i", LONG)


# The service


class Read:
    """A reranker that keeps what it reads."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def score(self, query, texts):
        self.texts += texts
        return Scored(np.zeros(len(texts), np.float32), np.ones(len(texts), int), np.zeros(len(texts), bool))

    def up(self):
        return True

    def check(self):
        pass


def test_of_what_words_alone_found_the_piece_with_most_of_them_is_reranked(made, tmp_path, monkeypatch):
    """A dense hit is read at the piece of its score."""
    without_ray(monkeypatch)
    settings = SETTINGS.model_copy(update={"shards": 2, "lexical": True})
    build_index(str(made / "encoder"), [str(made / "passages.jsonl")], str(tmp_path / "i"), settings, seed=0)
    scorer, (parts, _) = Read(), pieces_of(made, LONG)
    service = SearchService(
        LocalRelease(str(tmp_path / "i")), Serve(max_k=60, rerank_deadline_ms=60_000), scorer=scorer
    )
    http, query = TestClient(create_app(service), base_url=LOCAL), "Hauptstadt Seine river"
    texts, asked = {p.doc_id: p.text for p in LONG}, set(words_of(query))
    best = {}
    for name, start, end in parts:
        shared = len(asked.intersection(words_of(texts[name][start:end])))
        if shared > best.get(name, (-1, ()))[0]:
            best[name] = shared, [start, end]
    plain = {h["doc_id"]: h["piece"] for h in ask(http, query, k=60)["results"][0]["hits"]}
    several = 0
    for fusion in ("none", "rrf"):
        scorer.texts = []
        lexical = {"fusion": fusion} if fusion == "none" else {"fusion": fusion, "depth": 12}
        hits = ask(http, query, k=12, lexical=lexical, rerank={"candidates": 12})["results"][0]["hits"]
        assert hits
        for hit in hits:
            name = hit["doc_id"]
            right = plain[name] if "dense" in hit else best[name][1]
            assert hit["piece"] == right
            several += right[0] > 0
            assert texts[name][slice(*right)] in scorer.texts
        assert fusion == "none" or {("dense" in hit) for hit in hits} == {True, False}
    assert several, "some of them do not begin their passages"
    assert "piece" not in ask(http, query, lexical={"fusion": "none"})["results"][0]["hits"][0], "it is not looked for"


@pytest.fixture(scope="module")
def services(made, tmp_path_factory):
    """Of the index in its folder, and of the same at a URI, which is copied to a cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield clients_of({("index",): made / "index", ("uri",): f"file://{made / 'index'}"}, Serve(max_k=60))


@pytest.mark.parametrize("placement", ["local", "distributed"])
def test_a_service_answers_by_passage_and_names_the_piece(made, services, placement):
    http = services["index", placement]
    texts = {p.doc_id: p.text for p in LONG}
    for query in ("Hauptstadt Berlin", "the river Seine"):
        vector = encode(encoder(made), [query], role="query", precision="fp32")[0]
        expected = by_best_piece(*pieces_of(made, LONG), vector)
        hits = ask(http, query, k=50)["results"][0]["hits"]
        assert [h["doc_id"] for h in hits] == [name for name, *_ in expected]
        assert [tuple(h["piece"]) for h in hits] == [piece for *_, piece in expected]
        assert [h["score"] for h in hits] == pytest.approx([score for _, score, _ in expected], abs=1e-5)
        assert all(h["text"] == texts[h["doc_id"]] for h in hits)
        # Filters, languages and policies go by passages too.
        german = ask(http, query, k=50, languages=["de"], filter={"must": [{"key": "year", "match": {"value": 2001}}]})
        keep = {p.doc_id for p in LONG if p.language == "de" and p.metadata["year"] == 2001}
        assert [h["doc_id"] for h in german["results"][0]["hits"]] == [n for n, *_ in expected if n in keep]
        groups = ask(http, query, k=50, group_by="group", quotas={"de": 3})["results"][0]["hits"]
        assert len(groups) == len({LONG_GROUP[h["doc_id"]] for h in groups})
        assert sum(h["language"] == "de" for h in groups) <= 3
        assert {(h["doc_id"], *h["piece"]) for h in groups} <= {(n, *piece) for n, _, piece in expected}
        pages, body = [], ask(http, query, k=7, offset=0)
        while True:
            pages += body["results"][0]["hits"]
            if (cursor := body["next"]) is None:
                break
            body = ask(http, query, k=7, cursor=cursor)
        assert [(h["doc_id"], h["piece"]) for h in pages] == [(h["doc_id"], h["piece"]) for h in hits]


LONG_GROUP = {p.doc_id: p.metadata["group"] for p in LONG}


@pytest.mark.parametrize("placement", ["local", "distributed"])
def test_an_index_in_pieces_at_a_uri_answers_as_its_folder_does(services, placement):
    """Scores to 1e-6: a query's vector has other last bits beside another one in its batch."""
    for more in ({}, {"languages": ["de"]}, {"group_by": "group"}, {"offset": 4}):
        here, there = (
            ask(services[place, placement], ["Hauptstadt Berlin", "the river Seine"], k=9, **more)["results"]
            for place in ("index", "uri")
        )
        for mine, its in zip(here, there, strict=True):
            hits = [
                [*one["hits"], *(also for hit in one["hits"] for also in hit.get("also", ()))] for one in (mine, its)
            ]
            scores = [[hit.pop("score") for hit in each] for each in hits]
            assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        assert here == there
        assert all("piece" in hit for one in there for hit in one["hits"])


def test_a_passage_is_read_whole_and_like_one_in_pieces_is_refused(services):
    http = services["index", "local"]
    assert http.get(f"/passages/{LONG[3].doc_id}").json()["text"] == LONG[3].text
    refused = http.post("/search", json={"like": LONG[3].doc_id})
    assert refused.status_code == 422
    assert "was cut into pieces, and has no vector of its own; send a text of it" in refused.json()["error"]["message"]
    hits = http.post("/search", json={"like": LONG[0].doc_id, "k": 5}).json()["results"][0]["hits"]
    assert len(hits) == 5
    assert LONG[0].doc_id not in {h["doc_id"] for h in hits}


def test_the_page_s_example_cuts_and_says_so(made, tmp_path, monkeypatch, capsys):
    """The command of "Long passages", with an encoder of so many tokens."""
    section = PAGE.partition("## Long passages\n")[2].partition("\n## ")[0]
    (argv,) = split_command(re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)[0].replace("\\\n", " "))
    make_preset(tmp_path / "runs" / "mine" / "checkpoint", max_tokens=256)
    write_jsonl(tmp_path / "passages.jsonl", [LONG[0], LONG[1]._replace(text=said(700, 1))])
    without_ray(monkeypatch)
    monkeypatch.setattr("hybrid_ir.cluster.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("hybrid_ir.cluster.live_nodes", lambda: 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*argv, "-v"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    assert not left.value.code, err
    pieces = read_manifest(tmp_path / "index").pieces
    assert (pieces.tokens, pieces.overlap, pieces.long) == (256, 32, {"en": 1})
    assert pieces.most >= 4
    assert f"cut into pieces of at most 256 tokens: 1 passage; {pieces.vectors} vectors in all" in " ".join(out.split())

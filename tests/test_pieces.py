"""Long passages in pieces: where they are cut, and that an index finds each by its best piece, as brute force does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TEXTS, make_preset
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import search, unit, write_index
from test_shard import LANGUAGES, D

from hybrid_ir.config.experiment import Index
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.config.search import Pieces
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.long_texts.pieces import cut_into_pieces
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.index import query as query_module
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery, is_flat, merge
from hybrid_ir.index.tombstones import bury, rows_of
from hybrid_ir.index.writing import make_manifest, open_shards
from hybrid_ir.types import InputError

PAGE = (Path(__file__).parents[1] / "docs" / "index_passages.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXTS).split()
HOW = Pieces(tokens=16, overlap=3)
SETTINGS = Index(recall_target=0, recall_sample=5, pieces=HOW)


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


@settings(max_examples=40, deadline=None)
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


def test_the_manifest_counts_vectors_and_long_passages(indices):
    _, manifest = indices["Flat", 3, "language"]
    counts = np.bincount(TABLE[:, 0])
    assert manifest.format == 4
    assert (manifest.rows, manifest.pieces.vectors, manifest.pieces.most) == (COUNT, len(TABLE), 150)
    assert sum(manifest.pieces.long.values()) == int((counts > 1).sum())
    folder, whole = indices["Flat", 4, "random"]
    left = without(folder, whole, ["doc-7"])
    assert (left.pieces.vectors, left.pieces.most) == (len(TABLE) - 150, 12)
    assert search(open_shards(folder, left, checksums=False), VECTORS[:1], [ShardQuery(COUNT)])[0]

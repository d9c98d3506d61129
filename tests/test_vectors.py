"""Vectors alone: written by `encode`, taken by an index build, and what is refused on the way."""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import make_preset
from indices import sample_passages, search, write_jsonl
from without_ray import without_ray

from hybrid_ir.cli import app as cli
from hybrid_ir.config.experiment import Index
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.space import space_of
from hybrid_ir.index import fragments, ray_stages
from hybrid_ir.index.build import build_index
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery
from hybrid_ir.index.vectors import given, placed
from hybrid_ir.index.vectors.checks import as_unit, first_fault
from hybrid_ir.index.vectors.made import encode_passages
from hybrid_ir.index.writing import open_shards
from hybrid_ir.types import InputError

SETTINGS = Index(recall_target=0, recall_sample=5)
LONG = IndexedPassage("long/1", "river " * 100, "en")
"""More than the 32 tokens that the encoder reads."""
PASSAGES = [*sample_passages(90), LONG]


@pytest.fixture(autouse=True)
def _small(monkeypatch, request):
    """Without Ray, but for the test that asks for it; several fragments, and several blocks of vectors."""
    if "ray_cluster" in request.fixturenames:
        return
    without_ray(monkeypatch)
    for module in (fragments, placed):
        monkeypatch.setattr(module, "FRAGMENT_ROWS", 32)
    monkeypatch.setattr(given, "BLOCK_ROWS", 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An encoder with prefixes; passages, and one more line that cannot be indexed; their vectors in both forms."""
    root = tmp_path_factory.mktemp("vectors")
    make_preset(root / "preset")
    model = load_encoder(str(root / "preset"), query_prefix="query: ", passage_prefix="passage: ")
    model.save_pretrained(str(root / "encoder"), create_model_card=False)
    write_jsonl(root / "good.jsonl", PASSAGES)
    (root / "mixed.jsonl").write_text((root / "good.jsonl").read_text() + '{"doc_id": "bad", "text": ""}\n')
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        for module in (fragments, placed):
            patch.setattr(module, "FRAGMENT_ROWS", 32)
        for form in ("parquet", "npy"):
            encode_passages(str(root / "encoder"), [str(root / "mixed.jsonl")], str(root / form), SETTINGS, form=form)
    return root


def build(made, out, vectors=None, *, settings=SETTINGS, passages="mixed.jsonl", trust=False):
    return build_index(
        str(made / "encoder"),
        [str(made / passages)],
        str(out),
        settings,
        seed=0,
        vectors=None if vectors is None else str(vectors),
        trust_vectors=trust,
    )


def answers(out, manifest):
    queries = np.random.default_rng(0).normal(size=(5, manifest.space["dimension"])).astype(np.float32)
    return search(open_shards(out, manifest), queries, [ShardQuery(10)] * 5)


def stored(out, manifest):
    """Copies of all vectors: the shards' own are memory of FAISS's, and gone with them."""
    shards = open_shards(out, manifest)
    return np.stack([shard.vectors[row].copy() for shard in shards for row in range(shard.entry.rows)])


def table_of(made):
    """doc_ids and vectors as a user has them: a list of float64, in no order."""
    table = pq.read_table(made / "parquet" / "vectors.parquet")
    order = np.random.default_rng(0).permutation(table.num_rows)
    vectors = np.asarray(table["vector"].to_pylist())[order]
    return [table["doc_id"].to_pylist()[i] for i in order], vectors


def write_table(path, ids, vectors, column="vector"):
    pq.write_table(pa.table({"doc_id": ids, column: [list(v) for v in vectors]}), path, row_group_size=30)
    return path


# Texts in, vectors out


def test_encode_writes_the_encoders_own_vectors_in_the_order_of_the_passages(made):
    model = load_encoder(str(made / "encoder"))
    expected = encode(model, [p.text for p in PASSAGES], role="document")
    table = pq.read_table(made / "parquet" / "vectors.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.float32(), model.get_embedding_dimension())
    assert table["doc_id"].to_pylist() == [p.doc_id for p in PASSAGES]
    assert table["language"].to_pylist() == [p.language for p in PASSAGES]
    assert [n for n, cut in enumerate(table["cut"].to_pylist()) if cut] == [90]
    np.testing.assert_allclose(np.asarray(table["vector"].to_pylist()), expected, atol=1e-5)
    matrix = np.load(made / "npy" / "vectors.npy", mmap_mode="r")
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.asarray(table["vector"].to_pylist(), dtype=np.float32))
    assert pq.read_table(made / "npy" / "ids.parquet").equals(table.drop_columns("vector"))
    for form, files in (("parquet", ["vectors.parquet"]), ("npy", ["ids.parquet", "vectors.npy"])):
        manifest = json.loads((made / form / "manifest.json").read_text())
        assert sorted(manifest["files"]) == sorted(["rejected.jsonl", *files])
        assert sorted(p.name for p in (made / form).iterdir()) == sorted([*manifest["files"], "manifest.json"])
        assert manifest["space"]["id"] == space_of(model)["id"]
        assert (manifest["role"], manifest["prefix"], manifest["rows"]) == ("document", "passage: ", 91)
        assert manifest["dimension"] == model.get_embedding_dimension()
        assert manifest["languages"] == {"ar": 30, "en": 31, "th": 30}
        assert manifest["cut"] == {"en": 1}
        assert sum(manifest["rejected"].values()) == 1


def test_as_queries_texts_have_the_prefix_of_queries_and_no_index_takes_them(made, tmp_path):
    encode_passages(
        str(made / "encoder"), [str(made / "good.jsonl")], str(tmp_path / "q"), SETTINGS, role="query", form="npy"
    )
    model = load_encoder(str(made / "encoder"))
    expected = encode(model, [p.text for p in PASSAGES], role="query")
    np.testing.assert_allclose(np.load(tmp_path / "q" / "vectors.npy"), expected, atol=1e-5)
    with pytest.raises(InputError, match="were made with --role query; an index holds documents"):
        build(made, tmp_path / "index", tmp_path / "q")
    assert not (tmp_path / "index").exists()


def test_encode_goes_on_where_it_was_stopped_and_leaves_what_is_not_its_own(made, tmp_path, monkeypatch):
    def run(form="parquet", role="document"):
        paths = [str(made / "mixed.jsonl")]
        return encode_passages(str(made / "encoder"), paths, str(tmp_path / "out"), SETTINGS, role=role, form=form)

    calls = []
    whole = ray_stages._EncodeFragment.__call__

    def stopped(self, rows):
        calls.append(int(rows["fragment"][0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, rows)

    monkeypatch.setattr(ray_stages._EncodeFragment, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InputError, match="an unfinished build with --role document, not query"):
        run(role="query")
    run()
    assert calls == [0, 1, 1, 2], "the first of three fragments stays encoded"
    wanted = (made / "parquet" / "vectors.parquet").read_bytes()
    assert (tmp_path / "out" / "vectors.parquet").read_bytes() == wanted
    assert not (tmp_path / "out" / ".build").exists()
    with pytest.raises(InputError, match="holds vectors already; choose another --out"):
        run()
    with pytest.raises(InputError, match="holds something else than vectors, so it is left alone"):
        encode_passages(str(made / "encoder"), [str(made / "good.jsonl")], str(made), SETTINGS)


# An index of vectors


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("codec", ["Flat", "IVF4,SQ8"])
def test_an_index_of_vectors_is_the_index_of_their_passages(made, tmp_path, codec, shards):
    """Same version, which is a hash of every file of the shards; same ids and scores; same counts."""
    settings = SETTINGS.model_copy(update={"codec": codec, "shards": shards})
    usual = build(made, tmp_path / "usual", settings=settings)
    wanted = answers(tmp_path / "usual", usual)
    for form in ("parquet", "npy"):
        taken = build(made, tmp_path / form, made / form, settings=settings)
        assert answers(tmp_path / form, taken) == wanted
        assert taken.index_version == usual.index_version
        assert (taken.cut, taken.rejected, taken.recall) == (usual.cut, usual.rejected, usual.recall)
        assert taken.settings["vectors"] == {
            "path": str(made / form), "space": usual.space["id"], "normalised": 0
        }  # fmt: skip
    assert "vectors" not in usual.settings


def test_vectors_of_the_users_own_are_matched_by_id_normalised_and_counted(made, tmp_path):
    """In no order, as float64, two of them twice and half as long as they should be."""
    ids, vectors = table_of(made)
    vectors[3] *= 2
    vectors[50] *= 0.5
    mine = write_table(tmp_path / "mine.parquet", ids, vectors, "embedding")
    with pytest.raises(InputError, match=r"does not say which encoder .*add --trust-vectors"):
        build(made, tmp_path / "taken", mine)
    usual = build(made, tmp_path / "usual")
    taken = build(made, tmp_path / "taken", mine, trust=True)
    np.testing.assert_allclose(stored(tmp_path / "taken", taken), stored(tmp_path / "usual", usual), rtol=0, atol=1e-7)
    assert taken.settings["vectors"] == {
        "path": str(mine), "space": None, "normalised": 2, "agreement": 1.0, "lowest": 1.0
    }  # fmt: skip
    assert taken.cut == {}, "nobody says which texts were cut"


def test_trusted_vectors_of_another_encoder_are_refused_and_nothing_is_written(made, tmp_path):
    """In 64 and more dimensions two directions at random have a cosine of some 0.1."""
    ids, vectors = table_of(made)
    mine = write_table(tmp_path / "mine.parquet", ids, np.random.default_rng(0).normal(size=vectors.shape))
    with pytest.raises(InputError) as refused:
        build(made, tmp_path / "index", mine, trust=True)
    said = re.search(r"of 64 that were encoded again the median cosine is (-?\d\.\d+), and", str(refused.value))
    assert said is not None
    assert abs(float(said[1])) < 0.2
    assert not (tmp_path / "index").exists(), "mended vectors are taken by the same command"


def test_trusted_vectors_in_another_order_are_refused(made, tmp_path):
    """Nothing in a matrix says whose a row is, so only the texts can tell. Random weights bring all vectors close
    together: those of two languages to a cosine of .975."""
    np.save(tmp_path / "mine.npy", np.load(made / "npy" / "vectors.npy")[::-1])
    with pytest.raises(InputError, match=r"are not those that --checkpoint makes of these passages"):
        build(made, tmp_path / "index", tmp_path / "mine.npy", passages="good.jsonl", trust=True)


def test_a_matrix_alone_is_matched_by_row_where_every_passage_is_good(made, tmp_path):
    alone = tmp_path / "mine.npy"
    np.save(alone, np.load(made / "npy" / "vectors.npy"))
    usual = build(made, tmp_path / "usual", passages="good.jsonl")
    taken = build(made, tmp_path / "taken", alone, passages="good.jsonl", trust=True)
    assert answers(tmp_path / "taken", taken) == answers(tmp_path / "usual", usual)
    with pytest.raises(InputError, match=r"91 vectors without doc_ids, and of the passages 91 are good and 1 rejected"):
        build(made, tmp_path / "other", alone, trust=True)
    assert not (tmp_path / "other").exists()


def test_what_lacks_a_vector_and_what_has_none_is_named_and_counted(made, tmp_path):
    ids, vectors = table_of(made)
    missing = [ids.pop() for _ in range(4)]
    mine = write_table(tmp_path / "mine.parquet", [*ids, "bad", "x/1", "x/2", "x/3"], vectors)
    with pytest.raises(InputError) as refused:
        build(made, tmp_path / "index", mine, trust=True)
    order = [p.doc_id for p in PASSAGES if p.doc_id in missing][:3]
    assert f"4 of 91 passages have no vector ({', '.join(map(repr, order))})" in str(refused.value)
    assert "4 vectors are of no passage that is indexed ('bad', 'x/1', 'x/2')" in str(refused.value)
    assert "(1 records were rejected: 1 x no text" in str(refused.value)
    assert not (tmp_path / "index").exists(), "mended vectors are taken by the same command"


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "not all finite"), (-np.inf, "not all finite"), (1e300, "not all finite"), (0, "all zero")],
)
def test_a_vector_that_no_index_can_hold_is_refused_by_its_id_and_row(made, tmp_path, value, said):
    """1e300 is finite in the file, and not in float32."""
    ids, vectors = table_of(made)
    vectors[45] = value
    mine = write_table(tmp_path / "mine.parquet", ids, vectors)
    with pytest.raises(InputError, match=rf"the vector of '{ids[45]}' \(row 45, counted from 0\) is {said}"):
        build(made, tmp_path / "index", mine, trust=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda ids, vectors: (ids, vectors[:, :5]), r"has 5 numbers, the encoder's have \d+"),
        (lambda ids, vectors: ([*ids[:-1], ids[0]], vectors), r"comes again in row 90, counted from 0"),
        (lambda ids, vectors: ([*ids[:-1], None], vectors), r"row 90, counted from 0, has the doc_id None"),
    ],
)
def test_vectors_that_cannot_be_matched_are_refused(made, tmp_path, spoil, said):
    mine = write_table(tmp_path / "mine.parquet", *spoil(*table_of(made)))
    with pytest.raises(InputError, match=said):
        build(made, tmp_path / "index", mine, trust=True)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("m.npy", lambda p: np.save(p, np.zeros(4)), r"holds float64 of shape \(4,\); it must be one matrix"),
        ("m.npy", lambda p: np.save(p, np.zeros((4, 2), dtype=np.int8)), "holds int8 of shape"),
        ("m.npy", lambda p: np.save(p, np.ones((91, 3))), "have 3 numbers each, the encoder's have"),
        ("m.npy", lambda p: np.save(p, np.asarray([{}]), allow_pickle=True), "cannot be read"),
        ("m.parquet", lambda p: p.write_bytes(b"PAR1"), "cannot be read"),
        ("m.parquet", lambda p: pq.write_table(pa.table({"id": [1]}), p), r"has id \(int64\); vectors need the"),
        ("m.parquet", lambda p: pq.write_table(pa.table({"doc_id": ["a"], "vector": ["b"]}), p), "must be a list"),
        ("m.csv", lambda p: p.write_text("a"), "is not a folder that .* found m.csv"),
        ("m.npy", lambda p: None, "no vectors at"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_vectors_is_refused_saying_what_it_holds(made, tmp_path, name, write, said):
    write(tmp_path / name)
    with pytest.raises(InputError, match=said):
        build(made, tmp_path / "index", tmp_path / name, trust=True)
    assert not (tmp_path / "index").exists()


def test_vectors_of_another_encoder_are_refused_even_if_trusted(made, tmp_path):
    make_preset(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"were made by another encoder .*they differ in weights"):
        build_index(
            str(tmp_path / "other"), [str(made / "mixed.jsonl")], str(tmp_path / "index"), SETTINGS, seed=0,
            vectors=str(made / "npy"), trust_vectors=True,
        )  # fmt: skip


def test_damaged_vectors_are_refused(made, tmp_path):
    shutil.copytree(made / "npy", tmp_path / "v")
    content = bytearray((tmp_path / "v" / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "v" / "vectors.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"vectors\.npy is corrupt: .*hybrid-ir encode --checkpoint"):
        build(made, tmp_path / "index", tmp_path / "v")


def test_an_encoder_that_gives_nan_is_refused_by_the_passage(made, tmp_path, monkeypatch):
    """As bf16 can, of an encoder whose activations overflow."""

    def encode_badly(model, texts, **more):
        vectors = encode(model, texts, **more)
        vectors[[n for n, text in enumerate(texts) if text == PASSAGES[40].text]] = np.nan
        return vectors

    monkeypatch.setattr(ray_stages, "encode", encode_badly)
    said = rf"vector of passage '{PASSAGES[40].doc_id}' is not all finite .*try index\.precision=fp32"
    with pytest.raises(InputError, match=said):
        build(made, tmp_path / "index")
    with pytest.raises(InputError, match=said):
        encode_passages(str(made / "encoder"), [str(made / "good.jsonl")], str(tmp_path / "v"), SETTINGS)


def test_lengths_are_told_apart_at_the_ends_of_float32():
    """3 and 4 make 5. Squares of 1e-30 are 0 in float32, and those of 1e30 infinite."""
    vectors = np.asarray([[0.6, 0.8], [3, 4], [3e-30, 4e-30], [3e30, 4e30]], dtype=np.float32)
    unit, other = as_unit(vectors)
    assert other == 3
    np.testing.assert_allclose(unit, [[0.6, 0.8]] * 4, rtol=1e-6)
    assert unit[0].tobytes() == vectors[0].tobytes()
    assert first_fault(vectors) is None
    assert first_fault(np.asarray([[1, 0], [0, 0], [np.nan, 0]])) == (1, "all zero")


# The commands


def typed(monkeypatch, capsys, *words):
    """What a command says that is typed; its exit code."""
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return left.value.code, " ".join((out + err).split())


def test_the_commands_say_what_they_wrote_and_took(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hybrid_ir.cluster.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("hybrid_ir.cluster.live_nodes", lambda: 1)
    monkeypatch.chdir(tmp_path)
    common = ("--passages", made / "mixed.jsonl", "-v")
    code, said = typed(monkeypatch, capsys, "encode", "--checkpoint", made / "encoder", *common, "--out", "v")
    assert code == 0
    assert re.search(r"91 vectors of \d+ numbers written to v in \d+ s \(document, space [0-9a-f]{16}\)", said)
    assert "longer than the 32 tokens that the encoder reads: 1 passage (1.1%)" in said
    assert "1 record rejected; each is in v/rejected.jsonl" in said
    index = ("index", "--checkpoint", made / "encoder", *common, "index.recall_target=0")
    code, said = typed(monkeypatch, capsys, *index, "--out", "i", "--vectors", "v")
    assert code == 0
    assert "vectors were taken from v: this encoder made them; 0 were not of unit length" in said
    write_table(tmp_path / "mine.parquet", *table_of(made))
    code, said = typed(monkeypatch, capsys, *index, "--out", "j", "--vectors", "mine.parquet", "--trust-vectors")
    assert code == 0
    assert "makes are 1.000 in the median and 1.000 at the lowest; 0 were not" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vectors", "nowhere"), "no vectors at nowhere; give a folder that `hybrid-ir encode` wrote"),
        (("--vectors", "mine.parquet"), "where you know that it is the encoder of --checkpoint"),
        (("--vectors", "half"), "the vectors of half are unfinished; run the command again"),
        (("--trust-vectors",), "and there are none; give --vectors too"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused_before_ray_starts(made, tmp_path, monkeypatch, capsys, words, message):
    def no_ray(*_):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("hybrid_ir.cluster.ray_session", no_ray)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.parquet").write_bytes(b"")
    (tmp_path / "half" / ".build").mkdir(parents=True)
    index = ("index", "--checkpoint", made / "encoder", "--passages", made / "good.jsonl", "--out", "o")
    code, said = typed(monkeypatch, capsys, *index, *words)
    assert code == 2
    assert message in said
    assert not (tmp_path / "o").exists()


# The Ray Data job


@pytest.mark.slow
def test_actors_write_vectors_and_a_broken_encoders_are_refused_by_the_passage(made, tmp_path, ray_cluster):
    """Of a word's row that is NaN, every text with the word has a vector of NaN; of all rows, the first passage."""
    settings = SETTINGS.model_copy(update={"cpus_per_actor": 0.5})
    paths = [str(made / "mixed.jsonl")]
    encode_passages(str(made / "encoder"), paths, str(tmp_path / "v"), settings, form="npy")
    wanted = np.load(made / "npy" / "vectors.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v" / "vectors.npy"), wanted, atol=1e-5)
    broken = load_encoder(str(made / "encoder"))
    broken[0].model.get_input_embeddings().weight.data.fill_(float("nan"))
    broken.save_pretrained(str(tmp_path / "broken"), create_model_card=False)
    with pytest.raises(InputError, match=rf"vector of passage '{PASSAGES[0].doc_id}' is not all finite"):
        build_index(str(tmp_path / "broken"), paths, str(tmp_path / "index"), settings, seed=0)

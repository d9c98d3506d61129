"""Building, verifying and extending an index: the files, what is refused, and what a killed build leaves to do."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import make_preset, make_xlm_roberta
from indices import sample_passages, search, unit, write_index, write_served_index
from readers import CASES, needs_cases

from hybrid_ir.config.experiment import Index
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.space import space_of
from hybrid_ir.index.codec import default_codec, make_codec, stratified_sample
from hybrid_ir.index.filters.form import Filter, OneOf
from hybrid_ir.index.filters.rows import passing
from hybrid_ir.index.folder import checksum_of, read_manifest
from hybrid_ir.index.fragments import FRAGMENT_ROWS, Fragments, ingest
from hybrid_ir.index.passage_table import PassageTable, canonical, write_passages
from hybrid_ir.index.passages import IndexedPassage, read_passages
from hybrid_ir.index.query import ShardQuery
from hybrid_ir.index.recall import recall_gate
from hybrid_ir.index.resuming import claim, inputs_of
from hybrid_ir.index.shard import open_shard
from hybrid_ir.index.terms.counts import open_statistics
from hybrid_ir.index.writing import cut_shards, open_shards
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.types import InputError, Rejected

pytestmark = pytest.mark.numbers


def write_jsonl(path, rows):
    path.write_text("".join((json.dumps(r, ensure_ascii=False) if isinstance(r, dict) else r) + "\n" for r in rows))
    return path


def as_record(p: IndexedPassage) -> dict:
    return {"doc_id": p.doc_id, "text": p.text, "language": p.language, "metadata": dict(p.metadata)}


def rows_with(table: PassageTable, key: str, value: str) -> list[int]:
    return table.where(partial(passing, Filter(must=(OneOf(key, (value,)),)))).tolist()


# Reading passages


def test_a_record_that_cannot_be_indexed_is_rejected_with_its_reason(tmp_path):
    rows = [
        {"doc_id": "1", "text": " good ", "language": "EN"},
        {"doc_id": "2", "text": "good", "language": "de", "metadata": {"year": 2001, "draft": False, "score": 0.5}},
        "{not json",
        {"doc_id": "3", "text": "  ", "language": "en"},
        {"text": "no id", "language": "en"},
        {"doc_id": "4", "text": "x", "language": "no such language"},
        {"doc_id": "5", "text": "x", "language": "en", "year": 2001},
        {"doc_id": "6", "text": "x", "language": "en", "metadata": {"list": [1]}},
        '{"doc_id": "7", "text": "\\ud800", "language": "en"}',
    ]
    read = list(read_passages(write_jsonl(tmp_path / "p.jsonl", rows)))
    good = [p for p in read if isinstance(p, IndexedPassage)]
    assert good[0] == IndexedPassage("1", "good", "en", {})
    assert good[1].metadata == {"year": 2001, "draft": False, "score": 0.5}
    reasons = {p.where.rpartition(":")[2]: p.reason for p in read if isinstance(p, Rejected)}
    assert list(reasons) == ["3", "4", "5", "6", "7", "8", "9"]
    for line, said in zip(
        "3456789", ("JSON", "no text", "no doc_id", "language", "'metadata'", "metadata", "UTF-8"), strict=True
    ):
        assert said in reasons[line]


def test_null_metadata_is_absent_and_an_integer_is_an_id(tmp_path):
    """Of a Parquet struct every field that some row has is there in all, as null."""
    rows = [
        {"doc_id": 7, "text": "a", "language": "en", "metadata": {"year": None, "author": "z"}},
        {"doc_id": 8, "text": "b", "language": "de", "metadata": {"year": 2024, "author": None}},
        {"doc_id": 9, "text": "c", "language": "de", "metadata": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    write_jsonl(tmp_path / "p.jsonl", rows)
    wanted = [
        IndexedPassage("7", "a", "en", {"author": "z"}),
        IndexedPassage("8", "b", "de", {"year": 2024}),
        IndexedPassage("9", "c", "de", {}),
    ]
    assert list(read_passages(tmp_path / "p.parquet")) == list(read_passages(tmp_path / "p.jsonl")) == wanted


def test_metadata_are_what_json_holds_and_whole_numbers_are_one_value(tmp_path):
    rows = [{"doc_id": str(n), "text": "t", "language": "en", "metadata": {"year": value}} for n, value in enumerate(
        (2001, 2001.0, float("nan"), 2**63, -(2**63), 2**64, -(2**63) - 1, float("inf"), 1e300, 0.5)
    )]  # fmt: skip
    read = list(read_passages(write_jsonl(tmp_path / "p.jsonl", rows)))
    assert [n for n, each in enumerate(read) if isinstance(each, Rejected)] == [5, 6, 7]
    assert all("at most 64 bits" in each.reason for each in read if isinstance(each, Rejected))
    good = [each for each in read if isinstance(each, IndexedPassage)]
    write_passages(tmp_path / "p.arrow", good, ["year"])
    table = PassageTable(tmp_path / "p.arrow")
    for asked in (2001, 2001.0):  # what pandas makes of a column of years with a gap
        assert rows_with(table, "year", canonical(asked)) == [0, 1]
    assert table[2].metadata == {}
    assert [table[n].metadata["year"] for n in (1, 3, 4, 5, 6)] == [2001, 2**63, -(2**63), 1e300, 0.5]
    # A pandas column of years, of which one is missing.
    pq.write_table(pa.table({"doc_id": ["a", "b"], "text": ["t", "u"], "language": ["en", "en"], "metadata": pa.array(
        [{"year": 2001.0}, {"year": float("nan")}])}), tmp_path / "p.parquet")  # fmt: skip
    assert [dict(p.metadata) for p in read_passages(tmp_path / "p.parquet")] == [{"year": 2001.0}, {}]


@needs_cases
def test_passages_that_people_have_are_indexed_but_for_two():
    read = list(read_passages(CASES / "passages_with_nulls.jsonl"))
    assert [(r.where.rpartition(":")[2], r.reason) for r in read if isinstance(r, Rejected)] == [
        ("4", "metadata must map names to texts, true/false or finite numbers of at most 64 bits"),
        ("10", "no text, or one that is not a text"),
    ]
    assert [p.doc_id for p in read if isinstance(p, IndexedPassage)][3] == "7"


def test_a_store_gives_every_passage_of_every_language_once(tiny_store):
    passages = list(read_passages(tiny_store.path))
    assert (
        len(passages) == len({p.doc_id for p in passages}) == len({(p.language, p.text) for p in passages}) == 3 * 400
    )
    assert {p.language for p in passages} == {"de", "en", "es"}


def test_passages_come_back_from_the_mapped_file_as_they_went_in(tmp_path):
    passages = [
        IndexedPassage(f"d{n}", "ü" * (n % 7) + f"ไทย {n}", "th", {"n": n} if n % 3 else {}) for n in range(9000)
    ]
    assert write_passages(tmp_path / "p.arrow", passages, ["n"]) == 9000
    table = PassageTable(tmp_path / "p.arrow")
    assert [table[n] for n in range(9000)] == passages
    assert rows_with(table, "n", "4097") == [4097]
    assert rows_with(table, "x", "1") == []


def test_a_shard_has_the_bytes_of_its_passages_written_one_by_one(tmp_path):
    """Three fragments, of which each has other metadata keys; a shard takes some of each, not in their order."""
    counts, keys = (FRAGMENT_ROWS, FRAGMENT_ROWS, 500), (("a", "b"), ("b",), ())
    for number, (count, some) in enumerate(zip(counts, keys, strict=True)):
        folder = tmp_path / f"{number:05d}"
        folder.mkdir()
        passages = (
            IndexedPassage(f"{number}-{n}", "aé" * (n % 7), ("de", "sw")[n % 2], {k: n % 9 for k in some if n % 5})
            for n in range(count)
        )
        write_passages(folder / "passages.arrow", passages, some)
    fragments = Fragments(tmp_path, counts, ("de", "sw"), ("a", "b"), {})
    whole = np.arange(fragments.rows)
    for name, ids in {"one": whole[7:8], "language": np.r_[whole[::2], whole[1::2]], "back": whole[::-50]}.items():
        write_passages(tmp_path / name, fragments.passages(ids), ("a", "b", "new"))
        fragments.copy_passages(ids, ("a", "b", "new"), tmp_path / "copied")
        assert (tmp_path / "copied").read_bytes() == (tmp_path / name).read_bytes()


def test_duplicates_are_rejected_and_counted(tmp_path):
    path = write_jsonl(tmp_path / "p.jsonl", [as_record(p) for p in sample_passages(9)] * 2)
    (tmp_path / "build").mkdir()
    fragments = ingest([str(path)], tmp_path / "build")
    assert fragments.rows == 9
    assert fragments.rejected == {"duplicate doc_id": 9}
    kept = (tmp_path / "build" / "rejected.jsonl").read_text().splitlines()
    assert len(kept) == 9


# Shards and codecs


def test_language_major_shards_are_balanced_and_sorted_random_ones_hold_every_language():
    languages = np.asarray([2] * 10 + [0] * 50 + [1] * 40)
    names = ("zh", "ar", "de")  # numbers are not in the order of names
    parts = cut_shards(languages, names, 3, "language", seed=0)
    assert [len(p) for p in parts] == [34, 33, 33]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert [names[languages[i]] for part in parts for i in part] == sorted(names[x] for x in languages)
    for part in cut_shards(languages, names, 3, "random", seed=0):
        assert set(languages[part]) == {0, 1, 2}
        assert [names[languages[i]] for i in part] == sorted(names[languages[i]] for i in part)


def test_the_default_codec_follows_the_size_of_a_shard():
    assert default_codec(99_999, 1) == "Flat"
    assert default_codec(1_000_000, 20) == "Flat"
    assert default_codec(1_000_000, 1) == "IVF4096,SQ8"


@pytest.mark.parametrize(
    ("codec", "said"),
    [("HNSW32", "cannot be cut into shards"), ("Flut", "is not one of faiss'"), ("SQ8", "cannot be cut")],
)
def test_a_codec_that_cannot_be_sharded_is_refused(codec, said):
    with pytest.raises(InputError, match=said):
        make_codec(codec, 16)


def test_a_codec_is_checked_at_the_dimension_of_the_encoder(tmp_path):
    """PQ48 cuts 48 dimensions into parts, and 64 it does not."""
    from hybrid_ir.index.build import build_index

    checkpoint = make_xlm_roberta(tmp_path / "encoder", hidden=48)
    nothing = [str(write_jsonl(tmp_path / "none.jsonl", []))]
    with pytest.raises(InputError, match="the files hold no record"):
        build_index(str(checkpoint), nothing, str(tmp_path / "o"), Index(codec="IVF4096,PQ48"), seed=0)
    with pytest.raises(InputError, match=r"'IVF4,PQ64' is not one of faiss' for 48 dimensions"):
        build_index(str(checkpoint), nothing, str(tmp_path / "o"), Index(codec="IVF4,PQ64"), seed=0)


def test_the_training_sample_holds_small_languages():
    languages = np.asarray([0] * 99_000 + [1] * 900 + [2] * 100)
    sample = stratified_sample(languages, 1000, 256, seed=0)
    assert np.bincount(languages[sample]).tolist() == [990, 256, 100]


# The recall gate


@pytest.fixture(scope="module")
def clustered():
    """20,000 passages in two languages, one of them 1 %, around 300 centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, 24))
    vectors = unit(centres[rng.integers(300, size=20_000)] + 0.4 * rng.normal(size=(20_000, 24)))
    passages = [IndexedPassage(f"d{n}", f"t{n}", "sw" if n % 100 == 0 else "en") for n in range(20_000)]
    return passages, vectors


def test_the_gate_raises_nprobe_until_every_language_reaches_the_target(tmp_path, clustered):
    manifest = write_index(tmp_path / "i", *clustered, codec="IVF128,SQ8", shards=2)
    nprobe, recall = recall_gate(open_shards(tmp_path / "i", manifest), target=0.98, sample=50, seed=0)
    assert 1 < nprobe < 128
    assert min(min(recall[kind].values()) for kind in ("unfiltered", "filtered")) >= 0.98
    _, at_one = recall_gate(open_shards(tmp_path / "i", manifest), target=0, sample=50, seed=0, nprobe=1)
    assert min(at_one["unfiltered"].values()) < 0.98


def test_lists_are_visited_until_there_are_enough_whatever_the_cut(tmp_path, clustered):
    """Two of 128 lists hold some 300 of 20,000 passages: k=500 goes on to more lists, in every cut to the same."""
    passages, vectors = clustered
    queries = unit(vectors[:40] + 0.05)
    many = [ShardQuery(500)] * 20 + [ShardQuery(500, ("en",))] * 20
    answers = []
    for name, shards, sharding in (("a", 1, "language"), ("b", 3, "language"), ("c", 3, "random")):
        manifest = write_index(
            tmp_path / name, passages, vectors, codec="IVF128,SQ8", shards=shards, sharding=sharding, nprobe=2
        )
        opened = open_shards(tmp_path / name, manifest)
        answers.append(search(opened, queries, many))
        assert search(opened, queries[5:6], many[5:6]) == answers[-1][5:6], "alone or in a batch"
    assert {len(hits) for hits in answers[0]} == {500}
    assert answers[1:] == answers[:1] * 2
    # All there are, where there are fewer.
    (few,) = search(opened, queries[:1], [ShardQuery(30_000)])
    assert len(few) == 20_000


def test_a_codec_too_coarse_for_the_target_is_refused_naming_the_languages(tmp_path, clustered):
    manifest = write_index(tmp_path / "i", *clustered, codec="IVF64,PQ2", shards=1)
    with pytest.raises(InputError, match=r"stays below index.recall_target=0.999 in: en 0\.\d+, sw"):
        recall_gate(open_shards(tmp_path / "i", manifest), target=0.999, sample=50, seed=0)


# Damage


@pytest.fixture
def served(tmp_path):
    write_served_index(tmp_path / "index", sample_passages())
    return tmp_path / "index"


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "corrupt"])
@pytest.mark.parametrize(
    "name", ["shards/001/vectors.faiss", "shards/000/passages.arrow", "shards/000/ids.npy", "encoder/model.safetensors"]
)
def test_a_damaged_file_is_refused_by_its_name_with_the_remedy(served, name, how):
    damage(served / name, how)
    with pytest.raises(InputError) as refused:
        LocalRelease(str(served))
    message = str(refused.value)
    assert name in message
    assert how in message
    assert "hybrid-ir index --checkpoint" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no index at"),
        ("{", "cannot be read"),
        ("{}", "is not an index"),
        ('{"shards": [], "format": 9}', "format 9"),
        ('{"shards": [], "format": 1}', "is damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(served, content, said):
    if content is None:
        (served / "manifest.json").unlink()
    else:
        (served / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=said):
        read_manifest(served)


def test_an_encoder_of_another_space_is_refused_naming_what_differs(served, tmp_path):
    other = write_served_index(tmp_path / "other", sample_passages(), seed=1)
    with pytest.raises(InputError, match="they differ in weights"):
        LocalRelease(str(served), checkpoint=str(tmp_path / "other" / "encoder"))
    assert other.space["id"] != read_manifest(served).space["id"]


def test_an_encoder_that_no_longer_computes_what_it_did_is_refused(served):
    """The probes catch what no hash of files can: here, stored probes of another computation."""
    manifest = json.loads((served / "manifest.json").read_text())
    manifest["probes"][3][5] += 0.1
    manifest["checksum"] = checksum_of(manifest)
    (served / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"other vectors for the probe texts .*differ by 0\.100"):
        LocalRelease(str(served))


def test_the_space_is_the_encoder_and_not_its_folder(tmp_path):
    first = load_encoder(str(make_preset(tmp_path / "a", seed=0)), query_prefix="q: ")
    first.save_pretrained(str(tmp_path / "b"), create_model_card=False)
    space = space_of(first)
    encode(first, ["padding and truncation are set by calls", "x"], role="query")
    assert space_of(first) == space == space_of(load_encoder(str(tmp_path / "b")))
    for change in (
        {"query_prefix": "Q: "},
        {"query_prefix": "q: ", "pooling": "cls"},
        {"query_prefix": "q: ", "max_tokens": 16},
    ):
        assert space_of(load_encoder(str(tmp_path / "a"), **change))["id"] != space["id"]


# The Ray Data job


@pytest.mark.slow
def test_a_build_goes_on_where_it_was_killed_and_can_be_verified_and_extended(tmp_path, ray_cluster):
    from hybrid_ir.index.build import build_index, verify_index
    from hybrid_ir.index.changes.change import add_passages
    from hybrid_ir.index.ray_stages import _EncodeFragment

    checkpoint = make_preset(tmp_path / "encoder")
    settings = Index(shards=2, cpus_per_actor=0.5, lexical=True)
    first = sample_passages(4200)  # two fragments
    path = write_jsonl(tmp_path / "first.jsonl", [as_record(p) for p in first])
    out = tmp_path / "index"
    # What a kill leaves: passages cut into fragments, the first of them encoded.
    model = load_encoder(str(checkpoint))
    claim(out / ".build", inputs_of([str(path)]), space_of(model), seed=0, precision="auto")
    fragments = ingest([str(path)], out / ".build")
    _EncodeFragment(str(checkpoint), fragments, settings)({"fragment": np.asarray([0])})
    vectors = fragments.path(0) / "vectors.npy"
    shutil.copy2(vectors, tmp_path / "kept.npy")
    marked = np.load(vectors)
    marked[5] = marked[6]  # a mark: only a build that keeps this file has it
    with vectors.open("wb") as file:
        np.save(file, marked)

    with pytest.raises(InputError, match=r"unfinished build of other passages"):
        build_index(
            str(checkpoint), [str(write_jsonl(tmp_path / "x.jsonl", [as_record(first[0])]))], str(out), settings, seed=0
        )
    with pytest.raises(InputError, match="unfinished build with seed=0, not 1"):
        build_index(str(checkpoint), [str(path)], str(out), settings, seed=1)
    with pytest.raises(InputError, match=r"unfinished build with index\.precision=auto, not bf16"):
        build_index(str(checkpoint), [str(path)], str(out), settings.model_copy(update={"precision": "bf16"}), seed=0)
    seen = []
    manifest = build_index(
        str(checkpoint), [str(path)], str(out), settings, seed=0, progress=lambda what, n: seen.append((what, n))
    )
    assert ("encoded", 4096) in seen
    assert manifest.languages == {"ar": 1400, "en": 1400, "th": 1400}
    assert manifest.metadata_keys == ["kind", "year"]
    assert not (out / ".build").exists()
    shards = open_shards(out, manifest)
    position = {int(i): (n, row) for n, s in enumerate(shards) for row, i in enumerate(s.ids)}
    by_id = [shards[n].vectors[row] for n, row in (position[i] for i in range(len(first)))]
    np.testing.assert_array_equal(by_id[5], by_id[6])
    # Global ids are places in the input; each vector is its passage's.
    assert all(shards[n].passages[row].doc_id == first[i].doc_id for i, (n, row) in position.items())
    expected = encode(model, [p.text for p in first[4096:]], role="document")
    np.testing.assert_allclose(np.stack(by_id[4096:]), expected, atol=1e-5)

    with pytest.raises(InputError, match="is an index already"):
        build_index(str(checkpoint), [str(path)], str(out), settings, seed=0)
    more = [IndexedPassage(f"new/{n}", f"Mto namba {n} ni mrefu.", "sw", {"page": n}) for n in range(30)]
    added = add_passages(
        str(out), [str(write_jsonl(tmp_path / "m.jsonl", [as_record(p) for p in [*more, first[0]]]))],
        settings.model_copy(update={"lexical": False}), seed=0,  # words are written, as they were
    )  # fmt: skip
    assert added.languages["sw"] == 30
    words = open_statistics(out, added)
    assert words is not None
    by_words = ShardQuery(1, words=words.query("Mto namba 7 ni mrefu."))
    assert search(open_shards(out, added), np.zeros((1, 64), np.float32), [by_words])[0][0][0] == 4207
    known = "duplicate doc_id, which the index has: `hybrid-ir index replace` replaces its passage"
    assert added.rejected == {known: 1}
    assert added.index_version != manifest.index_version
    assert [shard.rows for shard in added.shards] == [2100, 2100, 30]
    assert verify_index(str(out), settings, seed=0).recall["unfiltered"]["sw"] == 1.0
    query = encode(model, ["Mto namba 7 ni mrefu."], role="document")
    (hits,) = search(open_shards(out, added), query, [ShardQuery(30, ("sw",))])
    assert sorted(global_id for global_id, _ in hits) == list(range(4200, 4230))
    assert open_shard(out, added, 2).read([7])[0] == more[7]

    damage(out / "shards" / "002" / "vectors.faiss", "corrupt")
    with pytest.raises(InputError, match=r"vectors\.faiss is corrupt"):
        verify_index(str(out), settings, seed=0)

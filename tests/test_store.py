"""The store's files: what was written is read back, and what is damaged is named."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import LANGUAGES, make_group, write_store

from hybrid_ir.data import store as store_module
from hybrid_ir.data.store import ROWS_PER_BLOCK, PartitionWriter, Store, open_store
from hybrid_ir.data.tables.collections import read_collection, write_collection
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import Candidate, InputError, Query, key64


def write_partition(root, groups, negatives=False) -> Store:
    """A store of one partition with the groups in the order given, and nothing held out."""
    writer = PartitionWriter(str(root), "p000", LANGUAGES, negatives)
    for group in groups:
        writer.add(group)
    manifest = {"format": 1, "content_hash": "", "partitions": [writer.close()], "eval": {}}
    (Path(str(root).removeprefix("file://")) / "manifest.json").write_text(json.dumps(manifest))
    return open_store(str(root))


@pytest.fixture(scope="module")
def long_groups():
    return [make_group(n, negatives=True) for n in range(2 * ROWS_PER_BLOCK + 100)]


@pytest.fixture
def long_store(tmp_path, long_groups, monkeypatch):
    """Three row groups in three files."""
    monkeypatch.setattr(store_module, "BLOCKS_PER_FILE", 1)
    return write_partition(tmp_path / "long", long_groups, negatives=True)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_every_column_comes_back_as_it_was_written(long_store, long_groups):
    assert [f["rows"] for f in long_store.partitions[0].files] == [ROWS_PER_BLOCK, ROWS_PER_BLOCK, 100]
    rows = np.arange(len(long_groups))
    assert long_store.take(0, rows, "group_id") == [g.group_id for g in long_groups]
    assert long_store.take(0, rows, "document") == [g.document for g in long_groups]
    for x in LANGUAGES:
        assert long_store.take(0, rows, f"q_{x}") == [g.queries[x] for g in long_groups]
        assert long_store.take(0, rows, f"p_{x}") == [[p.text for p in g.passages[x]] for g in long_groups]
        assert long_store.take(0, rows, f"p_id_{x}") == [[p.doc_id for p in g.passages[x]] for g in long_groups]
        assert long_store.take(0, rows, f"n_{x}") == [[p.text for p in g.negatives[x]] for g in long_groups]
        assert long_store.take(0, rows, f"n_id_{x}") == [[p.doc_id for p in g.negatives[x]] for g in long_groups]


def test_rows_are_taken_in_any_order_across_row_groups_and_files(long_store):
    rows = np.array([2 * ROWS_PER_BLOCK + 99, 0, ROWS_PER_BLOCK, 5, ROWS_PER_BLOCK - 1, 5])
    assert long_store.take(0, rows, "group_id") == ["g2147", "g0", "g1024", "g5", "g1023", "g5"]
    assert long_store.take(0, rows[:0], "group_id") == []


def test_rows_are_found_in_files_of_several_row_groups(tmp_path, long_groups, monkeypatch):
    monkeypatch.setattr(store_module, "BLOCKS_PER_FILE", 2)
    store = write_partition(tmp_path, long_groups)
    assert [f["rows"] for f in store.partitions[0].files] == [2 * ROWS_PER_BLOCK, 100]
    assert store.take(0, np.array([2048, 1024, 2047]), "group_id") == ["g2048", "g1024", "g2047"]


def test_few_files_are_open_and_few_bytes_are_kept_however_large_the_store(long_store, monkeypatch):
    monkeypatch.setattr(store_module, "OPEN_FILES", 1)
    monkeypatch.setattr(store_module, "CACHE_BYTES", 1)
    for row in (0, 1024, 2048, 0, 1025):
        assert long_store.take(0, np.array([row]), "group_id") == [f"g{row}"]
        assert len(long_store._files) == len(long_store._cache) == 1


def test_languages_and_partitions_are_those_that_were_written(tiny_store):
    assert tiny_store.languages == LANGUAGES
    (partition,) = tiny_store.partitions
    assert (partition.languages, partition.rows, partition.negatives) == (LANGUAGES, 280, False)


def test_a_store_is_picklable_with_files_open(tiny_store):
    tiny_store.take(0, np.array([0]), "q_en")
    other = pickle.loads(pickle.dumps(tiny_store))
    assert other.take(0, np.array([3, 1]), "q_en") == tiny_store.take(0, np.array([3, 1]), "q_en")
    assert other.content_hash == tiny_store.content_hash


def test_a_store_is_written_and_read_by_uri(tmp_path):
    manifest = write_store(f"file://{tmp_path}/store", [make_group(n) for n in range(40)])
    store = open_store(f"file://{tmp_path}/store")
    assert store.manifest == manifest
    assert len(store.take(0, np.arange(28), "q_de")) == 28
    assert len(store.collection("test").queries) == 8 * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


def test_a_collection_comes_back_as_it_was_written(tmp_path):
    queries = [Query("g/en", "g", "en", "Q?"), Query("g/de", "g", "de", "F?")]
    candidates = [Candidate("en/1", ("g", "h"), "en", "P.", "d"), Candidate("en/2", (), "en", "N.", "d")]
    write_collection(str(tmp_path / "eval"), queries, candidates)
    collection = read_collection(str(tmp_path / "eval"), "small")
    assert (collection.queries, collection.candidates, collection.name) == (queries, candidates, "small")


def test_equal_ids_have_equal_keys_and_others_do_not():
    assert key64("en/1") == key64("en/1")
    assert len({key64(f"en/{n}") for n in range(1000)}) == 1000
    assert all(0 <= key64(f"en/{n}") < 2**63 for n in range(1000))


# Damage


@pytest.fixture
def copied(tiny_store, tmp_path):
    """A copy of the tiny store that may be damaged, and its training file."""
    root = tmp_path / "copy"
    shutil.copytree(tiny_store.path, root)
    return root, root / "train" / "p000" / "part-00000.parquet"


def test_a_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"no store at .*nowhere.*; run: hybrid-ir prepare store=.*nowhere"):
        open_store(str(tmp_path / "nowhere"))


def test_a_missing_file_is_named(copied):
    root, file = copied
    file.unlink()
    with pytest.raises(InputError, match=r"part-00000.parquet is missing; prepare the store again"):
        open_store(str(root))


def test_a_truncated_file_is_named_with_its_size_and_what_it_should_be(copied):
    root, file = copied
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        InputError,
        match=rf"part-00000.parquet is corrupt: it has {size - 100} bytes, .* {size}; prepare the store again",
    ):
        open_store(str(root))


def test_a_flipped_byte_in_a_page_is_found_by_its_checksum(copied):
    root, file = copied
    text = file.read_bytes().index(b"PAR1") + 60  # inside the first column's first page
    flip(file, text)
    with pytest.raises(InputError, match=r"part-00000.parquet cannot be read \(.*\); prepare the store again"):
        open_store(str(root)).take(0, np.arange(280), "group_id")


def test_no_flipped_byte_is_read_as_another_text(copied, tiny_store):
    root, file = copied
    rows = np.arange(280)
    right = {c: tiny_store.take(0, rows, c) for c in ("group_id", "p_id_de", "q_es")}
    whole = file.read_bytes()
    for offset in range(0, len(whole), max(len(whole) // 120, 1)):
        flip(file, offset)
        store = open_store(str(root))
        with suppress(InputError):  # anything else that is raised fails the test
            assert {c: store.take(0, rows, c) for c in right} == right
        file.write_bytes(whole)


@pytest.mark.parametrize("part", ["queries", "candidates"])
def test_a_damaged_or_missing_collection_is_named(copied, part):
    root, _ = copied
    file = root / "eval" / "test" / f"{part}.parquet"
    whole = file.read_bytes()
    for damaged in (whole[:-20], b"", b"PAR1" * 5, whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{part}.parquet cannot be read \(.*\); prepare the store again"):
            open_store(str(root)).collection("test")
    file.unlink()
    with pytest.raises(InputError, match=rf"{part}.parquet is missing; prepare the store again"):
        open_store(str(root)).collection("test")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", r"manifest.json cannot be read \(.*\); prepare the store again"),
        ("[]", "is not a store: its manifest.json lists no partitions"),
        ('{"run": 1}', "is not a store: its manifest.json lists no partitions"),
        ('{"format": 0, "partitions": []}', "is a store of format 0, this version reads 1 and 2; prepare it again"),
    ],
)
def test_a_manifest_that_is_not_a_store_s_is_refused(copied, manifest, message):
    root, _ = copied
    (root / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match=message):
        open_store(str(root))


def test_a_split_that_was_not_held_out_says_how_to_hold_one_out(tmp_path):
    write_store(tmp_path / "store", [make_group(n) for n in range(40)], test_fraction=0.0)
    with pytest.raises(InputError, match=r"holds out no 'test' split; prepare it with a larger prepare.test_fraction"):
        open_store(str(tmp_path / "store")).collection("test")


@pytest.mark.parametrize("uri", ["nothing://here/store", "abc+x://y"])
def test_a_uri_that_nobody_serves_is_refused(uri):
    with pytest.raises(InputError, match=f"cannot open {re.escape(uri)} "):
        open_filesystem(uri)

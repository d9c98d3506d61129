"""Files of passages and of an index with damage at random: read in a way that makes sense, or refused by InputError."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import sample_passages, write_served_index

from hybrid_ir.index.filters.form import Filter, OneOf
from hybrid_ir.index.filters.rows import passing
from hybrid_ir.index.folder import check_files, read_manifest
from hybrid_ir.index.passage_table import PassageTable, canonical, write_passages
from hybrid_ir.index.passages import IndexedPassage, read_passages
from hybrid_ir.index.shard import open_shard
from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, Rejected

fuzzed = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.just([1])
    | st.sampled_from([2001.0, -0.0, 1e300, "\ud800", ""])
)  # fmt: skip
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "doc_id": SCALARS,
        "text": SCALARS | st.text(min_size=1),
        "language": SCALARS | st.sampled_from(["en", "EN", "en-US", "ara", "xx", "zh_Hant"]),
        "metadata": st.dictionaries(st.text(max_size=4), SCALARS, max_size=3) | SCALARS,
        "year": SCALARS,
    },
)
DAMAGE = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "zero"]), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damage) -> bytes:
    changed = bytearray(content)
    for how, where, new in damage:
        at = int(where * max(0, len(changed) - 1))
        if how == "flip" and changed:
            changed[at] ^= new[0] or 1
        elif how == "cut":
            del changed[at:]
        elif how == "insert":
            changed[at:at] = new
        else:
            changed[at : at + 16] = bytes(len(changed[at : at + 16]))
    return bytes(changed)


def names(error: InputError, name: str) -> None:
    assert name in str(error)


def check(path: Path) -> list[IndexedPassage]:
    """What is read of a file, which is written and comes back as it was."""
    read = list(read_passages(path))
    assert all(isinstance(each, IndexedPassage) or (isinstance(each, Rejected) and each.reason) for each in read)
    good = [each for each in read if isinstance(each, IndexedPassage)]
    for each in good:
        assert each.doc_id.strip()
        assert each.text == each.text.strip() != ""
        assert each.language == language_code(each.language)
        for value in each.metadata.values():
            json.dumps(value, allow_nan=False)
    keys = sorted({key for each in good for key in each.metadata})
    write_passages(path.with_name("back.arrow"), good, keys)
    table = PassageTable(path.with_name("back.arrow"))
    assert [table[n] for n in range(len(good))] == good
    for n, each in enumerate(good):
        same = Filter(must=tuple(OneOf(key, (canonical(value),)) for key, value in each.metadata.items()))
        assert n in table.where(partial(passing, same))
    return good


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@fuzzed
@given(records=st.lists(RECORDS, max_size=6), damage=st.none() | DAMAGE)
def test_json_lines_of_passages(folder, records, damage):
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    (folder / "p.jsonl").write_bytes(content if damage is None else damaged(content, damage))
    if damage is None:
        check(folder / "p.jsonl")
        return
    try:
        check(folder / "p.jsonl")
    except InputError as error:
        names(error, "p.jsonl")


@pytest.fixture(scope="module")
def parquet(folder):
    rows = [{**p._asdict(), "metadata": dict(p.metadata)} for p in sample_passages(60)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "good.parquet")
    return (folder / "good.parquet").read_bytes()


@fuzzed
@given(damage=DAMAGE)
def test_parquet_of_passages(folder, parquet, damage):
    (folder / "p.parquet").write_bytes(damaged(parquet, damage))
    try:
        check(folder / "p.parquet")
    except InputError as error:
        names(error, "p.parquet")


@pytest.fixture(scope="module")
def index(folder):
    write_served_index(folder / "index", sample_passages(), codec="IVF4,SQ8")
    return folder / "index"


@fuzzed
@given(damage=DAMAGE)
def test_a_manifest(index, damage):
    whole = (index / "manifest.json").read_bytes()
    expected = read_manifest(index)
    content = damaged(whole, damage)
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / "manifest.json").write_bytes(content)
        try:
            read = read_manifest(other)
        except InputError as error:
            names(error, other)
        else:
            assert read == expected


VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@fuzzed
@given(data=st.data())
def test_a_manifest_with_another_value_is_refused_with_or_without_its_checksum(index, data):
    content = json.loads((index / "manifest.json").read_bytes())
    name = data.draw(st.sampled_from(sorted(content)))
    content[name] = data.draw(VALUES)
    without = data.draw(st.booleans())
    if without:  # of the first format, which had none
        content = {k: v for k, v in content.items() if k not in ("parent", "cut", "checksum")} | {"format": 1}
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / "manifest.json").write_text(json.dumps(content))
        try:
            read = read_manifest(other)
            for n in range(len(read.shards)):
                check_files(index, read.shards[n].files, checksums=False)
        except InputError:
            return
        assert without or read == read_manifest(index)


@settings(fuzzed, max_examples=60)
@given(data=st.data(), damage=DAMAGE)
def test_a_file_of_an_index_is_refused_by_name_or_is_what_it_was(index, data, damage):
    manifest = read_manifest(index)
    name = data.draw(st.sampled_from([*sorted(manifest.shards[0].files), "lists-001.npy"]))
    whole = (index / name).read_bytes()
    content = damaged(whole, damage)
    (index / name).write_bytes(content)
    try:
        open_shard(index, manifest, 0)
    except InputError as error:
        names(error, name)
    else:
        assert content == whole
    finally:
        (index / name).write_bytes(whole)


@settings(fuzzed, max_examples=60)
@given(damage=DAMAGE)
def test_passages_that_are_not_checked_by_a_checksum_are_refused_too(folder, index, damage):
    """A fragment of a build that goes on has no checksum."""
    shutil.copyfile(index / "shards" / "000" / "passages.arrow", folder / "f.arrow")
    (folder / "f.arrow").write_bytes(damaged((folder / "f.arrow").read_bytes(), damage))
    try:
        PassageTable(folder / "f.arrow")
    except InputError as error:
        names(error, "f.arrow")

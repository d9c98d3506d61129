"""Files that decompress to more than the machine holds, and lines without an end: a sentence, and bounded memory.

Each test is a claim of docs/security.md.
"""

from __future__ import annotations

import bz2
import gzip
import json
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybrid_ir.data.find_files import record_files
from hybrid_ir.data.read_files import ROW_BYTES, parquet_rows, read_json_lines, read_lines
from hybrid_ir.data.sources import squad
from hybrid_ir.index import fragments
from hybrid_ir.types import InputError

MEBI = 1 << 20
EXPANDED = 300 * MEBI
"""What the bombs here come to: far more than a line may have, and than the margin that the tests allow."""
READ = """
import resource, sys
from pathlib import Path
from hybrid_ir.data.sources.records import read_records
from hybrid_ir.data.sources.squad import load_squad
from hybrid_ir.index.passages import read_passages
from hybrid_ir.types import InputError
kind, path = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    sum(1 for _ in {"records": read_records, "passages": read_passages, "squad": load_squad}[kind](Path(path)))
except InputError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def read_in_a_child(kind: str, path) -> tuple[str, int]:
    """What the reader said, and by how many MiB the most memory that the process held grew while it read."""
    limit = 8 << 30  # should a bound be missing, the machine goes on
    done = subprocess.run(
        [sys.executable, "-c", READ, kind, str(path)], capture_output=True, text=True, timeout=170,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *said, grown = done.stdout.splitlines()
    return "\n".join(said), int(grown)


def write_gz(path, start: bytes, byte: bytes) -> None:
    """`start`, and then a line that does not end within `EXPANDED`."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(EXPANDED // MEBI):
            file.write(byte * MEBI)


RECORD = b'{"doc_id": "a", "text": "b", "language": "en"}\n'


@pytest.mark.parametrize("kind", ["records", "passages"])
def test_a_file_that_decompresses_to_one_endless_line_is_refused_with_its_line(tmp_path, kind):
    path = tmp_path / "bomb.jsonl.gz"
    write_gz(path, RECORD, b"0")
    assert path.stat().st_size < 2 * MEBI
    said, grown = read_in_a_child(kind, path)
    assert said == f"line 2 of {path} has more than 16,777,216 bytes; cut its text, or write it as several"
    assert grown < 100, f"{grown} MiB were held to refuse a line of 16"


def test_a_json_file_that_decompresses_without_end_is_refused(tmp_path):
    """SQuAD's files are one JSON text, so that the bound is one of the file."""
    path = tmp_path / "bomb.json.gz"
    write_gz(path, b"", b" ")
    said, grown = read_in_a_child("squad", path)
    assert said.startswith(f"line 1 of {path} has more than 268,435,456 bytes")
    assert grown < 256 * 4


def test_a_json_file_of_endless_short_lines_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(squad, "FILE_BYTES", 1000)
    (tmp_path / "a.json").write_text("\n" * 1001)
    with pytest.raises(InputError, match=r"a\.json has more than 1,000 bytes; cut its articles into several files"):
        squad.load_squad(tmp_path / "a.json")


def test_a_line_of_a_hundred_million_characters_is_refused_and_not_shown(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(RECORD + b'{"doc_id": "b", "language": "en", "text": "' + b"x" * 100_000_000 + b'"}\n' + RECORD)
    for kind in ("records", "passages"):
        said, grown = read_in_a_child(kind, path)
        assert said.startswith(f"line 2 of {path} has more than 16,777,216 bytes; ")
        assert len(said) < 300
        assert grown < 100


def test_a_line_of_just_the_bound_is_read_whole(tmp_path):
    """The bound is of the bytes with the line's end; the next line is read as ever."""
    (tmp_path / "a").write_bytes(b"x" * 9 + b"\n" + b"y" * 9 + b"\nz")
    assert [line for _, line in read_lines(tmp_path / "a", 10)] == ["x" * 9, "y" * 9, "z"]
    with pytest.raises(InputError, match=r"line 1 of .*a has more than 9 bytes"):
        list(read_lines(tmp_path / "a", 9))


def test_the_public_readers_have_the_same_bound(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "' + b"x" * ROW_BYTES + b'"}\n')
    with pytest.raises(InputError, match=r"line 1 of .*a\.jsonl has more than 16,777,216 bytes"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_cell_of_parquet_that_is_enormous_is_refused_with_its_row(tmp_path):
    """The cell is decompressed before it is known how large it is; what would be made of it is not."""
    table = pa.table({"text": ["small", "x" * (ROW_BYTES + 1), "small"]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    rows = parquet_rows(tmp_path / "a.parquet")
    assert next(rows) == (1, {"text": "small"})
    with pytest.raises(InputError, match=r"row 2 of .*a\.parquet has more than 16,777,216 bytes; cut its text"):
        next(rows)


def test_passages_that_are_long_together_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    """4,096 passages wait in memory until they are written: a short file may hold as many that are long."""
    monkeypatch.setattr(fragments, "FRAGMENT_CHARACTERS", 1000)
    lines = [{"doc_id": str(n), "text": "x" * 300, "language": "en"} for n in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"the 4 passages up to '3' have more than 1,000 characters; .* cut them"):
        fragments.ingest([str(tmp_path / "a.jsonl")], tmp_path)
    monkeypatch.setattr(fragments, "FRAGMENT_ROWS", 2)  # what has been written is not counted
    assert fragments.ingest([str(tmp_path / "a.jsonl")], tmp_path).rows == 4


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.zst", "a.jsonl.xz", "a.jsonl.zip"])
def test_other_compressions_are_not_opened(tmp_path, name):
    (tmp_path / name).write_bytes(bz2.compress(RECORD))
    with pytest.raises(InputError, match=r"records must be \.jsonl, \.jsonl\.gz, \.parquet or a folder of those, got"):
        record_files(tmp_path / name)

"""The house: rooms stay small enough to know, and every file opens with what it does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hybrid_ir

PACKAGE = Path(hybrid_ir.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_opens_with_its_job_and_has_at_most_300_lines(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_folder_has_fewer_than_15_files(folder):
    assert len(list(folder.glob("*.py"))) < 15


@pytest.mark.parametrize("door", sorted(PACKAGE.glob("*/__init__.pyi")), ids=name)
def test_no_public_name_is_a_modules_too(door):
    """`from hybrid_ir.room import x` would give the module or the function by what was imported before."""
    public = {alias.name for node in ast.parse(door.read_text()).body for alias in node.names}  # type: ignore[attr-defined]
    assert public
    assert not public & {path.stem for path in door.parent.iterdir()}

"""Text files: found by language, read line by line. A missing or unreadable file is an InputError that names it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, one_line


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a UTF-8 file, plain or .gz; only LF and CRLF end a line.

    Bytes that are not UTF-8 come as lone surrogates, which `checked_group` rejects. Raises InputError naming the file.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except FileNotFoundError:
        raise InputError(f"no file {path}; found {listing(path.parent)} in its folder") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read after line {number} ({one_line(error)}); copy it again") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path:line, object) of each line of a JSON lines file, plain or .gz. Raises InputError for what is not an object."""
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number} is not a JSON object: {line[:80]!r}; copy the file again")
        yield f"{path}:{number}", record


def checked_text(where: str, text: str) -> str:
    """The text itself. Raises InputError if it came from bytes that are not UTF-8, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where} is not valid UTF-8; copy the file again") from None
    return text


def files_by_language(
    tagged: Iterable[tuple[str, Path]], languages: Sequence[str] | None, folder: str | Path
) -> dict[str, Path]:
    """File of each language that is wanted (None = all), the first of those with one code. Sorted by code."""
    found: dict[str, Path] = {}
    unknown = []
    for tag, path in tagged:
        try:
            found.setdefault(language_code(tag), path)
        except InputError:
            unknown.append(path.name)
    wanted = {language_code(language) for language in languages} if languages is not None else set(found)
    if languages is None and unknown:
        raise InputError(f"cannot tell the language of {', '.join(unknown)} in {folder}; list the languages to read")
    if missing := sorted(wanted - found.keys()):
        raise InputError(f"no {', '.join(missing)} in {folder}; its languages are: {' '.join(sorted(found)) or 'none'}")
    if not wanted:
        raise InputError(f"no file of the expected names in {folder}; found {listing(Path(folder))}")
    return {code: found[code] for code in sorted(wanted)}


def check_folder(path: str | Path) -> Path:
    """Raises InputError, saying what is beside it, if it is not a folder."""
    if not Path(path).is_dir():
        raise InputError(f"no folder {path}; found {listing(Path(path).parent)} beside it")
    return Path(path)


def listing(folder: Path) -> str:
    """The first names in a folder, for a message that says what was found."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" or "nothing"

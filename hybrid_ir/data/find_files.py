"""Find the files of a data set.

In: a folder, or for `resolve_files` also `hub:OWNER/NAME`, and which languages or names are wanted.
Out: paths, sorted; an InputError says what was there instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from hybrid_ir.languages import form_order, language_code, written_form
from hybrid_ir.types import InputError, Rejected, one_line


def resolve_files(root: str | Path, *patterns: str) -> list[Path]:
    """The files, sorted, whose path below `root` matches any of the patterns; `*` also matches `/`.

    `root` is a folder or `hub:OWNER/NAME[@REVISION]`, of which only these files are downloaded, once, to its cache.
    Raises InputError if there are none.
    """
    folder = Path(root)
    if str(root).startswith("hub:"):
        folder = _snapshot(str(root), patterns)
    elif not folder.is_dir():
        raise InputError(f"no folder {root}; set the path of a local copy, or hub:OWNER/NAME")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    matched = [folder / name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not matched:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
        raise InputError(
            f"no file {' or '.join(patterns)} in {root}; found {shown}; "
            "set the path of a copy with the upstream layout that has this language and split"
        )
    return matched


def pinned(root: str) -> str:
    """`hub:OWNER/NAME` with the commit that its branch, or the main one, is at: every file is then of that one.

    Any other path is itself. Raises InputError if the hub cannot be reached and has not been before.
    """
    return f"{root.partition('@')[0]}@{_snapshot(root, ()).name}" if root.startswith("hub:") else root


def _snapshot(root: str, patterns: Sequence[str]) -> Path:
    """The folder of the hub's cache with the files of a data set that match; its name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = root.removeprefix("hub:").partition("@")
    try:
        found = snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=list(patterns))
    except (OSError, HFValidationError) as error:
        raise InputError(
            f"cannot get {' or '.join(patterns) or 'the files'} of {root} ({one_line(error)}); "
            "connect to the hub, or set the path of a local copy"
        ) from error
    return Path(found)


class LanguageFiles(NamedTuple):
    """A file of each language, sorted by code, and those that were left out, each with its reason."""

    files: dict[str, Path]
    left_out: list[Rejected]


def files_by_language(
    tagged: Iterable[tuple[str, Path]], languages: Sequence[str] | None, folder: str | Path
) -> LanguageFiles:
    """File of each language that is wanted (None = all); of several forms of one the usual (zh-CN before zh-TW).

    A wanted language may name its form: zh-TW. Left out are other forms, and, where all are wanted, files whose tag no
    language has. Raises InputError for a language that is not there, and for two files of one language and form.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    unknown = []
    for tag, path in tagged:
        try:
            found.setdefault(language_code(tag), []).append((tag, path))
        except InputError:
            unknown.append(Rejected(path.name, "left out: no known language has its tag", tag))
    wanted = {language_code(tag): written_form(tag) for tag in languages if tag} if languages is not None else {}
    codes = set(found) if languages is None else set(wanted)
    if missing := sorted(codes - found.keys()):
        raise InputError(f"no {', '.join(missing)} in {folder}; its languages are: {' '.join(sorted(found)) or 'none'}")
    if not codes:
        raise InputError(f"no file of the expected names in {folder}; found {listing(Path(folder))}")
    chosen, left_out = {}, unknown if languages is None else []
    for code in sorted(codes):
        forms = sorted(found[code], key=lambda pair: (written_form(pair[0]) != wanted.get(code), form_order(pair[0])))
        (tag, chosen[code]), *others = forms
        for other, path in others:
            if written_form(other) == written_form(tag):
                raise InputError(
                    f"{chosen[code]} and {path} are both of the language {code}; "
                    "keep one of them, or set the path of a folder that has one"
                )
            if wanted.get(code, code) == code:
                left_out.append(Rejected(path.name, "left out: another form of a language that is read", other))
    return LanguageFiles(chosen, left_out)


def the_file(root: str | Path, pattern: str) -> Path:
    """The one file below `root` that matches, as `resolve_files` finds it. Raises InputError if there are several."""
    first, *others = resolve_files(root, pattern)
    if others:
        raise InputError(f"{first} and {others[0]} are both {pattern}; keep one of them, or set a folder that has one")
    return first


def record_files(root: Path) -> list[Path]:
    """The file itself, or all files of a folder that hold records: JSON lines and Parquet."""
    suffixes = (".jsonl", ".jsonl.gz", ".parquet")
    files = sorted(p for p in root.rglob("*") if p.name.endswith(suffixes)) if root.is_dir() else [root]
    if not files:
        raise InputError(f"no {', '.join(suffixes)} file in {root}; found {listing(root)}")
    if not files[0].name.endswith(suffixes):
        raise InputError(f"records must be {', '.join(suffixes)} or a folder of those, got {root}")
    return files


def check_folder(path: str | Path) -> Path:
    """Raises InputError, saying what is beside it, if it is not a folder."""
    if not Path(path).is_dir():
        raise InputError(f"no folder {path}; found {listing(Path(path).parent)} beside it")
    return Path(path)


def listing(folder: Path) -> str:
    """The first names in a folder, for a message that says what was found."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" or "nothing"

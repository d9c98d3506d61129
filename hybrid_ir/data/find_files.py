"""Find the files of a data set.

In: a folder, or for `resolve_files` also `hub:OWNER/NAME`, and which languages or names are wanted.
Out: paths, sorted; an InputError says what was there instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, one_line


def resolve_files(root: str | Path, *patterns: str) -> list[Path]:
    """The files, sorted, whose path below `root` matches any of the patterns; `*` also matches `/`.

    `root` is a folder or `hub:OWNER/NAME[@REVISION]`, of which only these files are downloaded, once, to its cache.
    Raises InputError if there are none.
    """
    folder = Path(root)
    if str(root).startswith("hub:"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        name, _, revision = str(root).removeprefix("hub:").partition("@")
        try:
            folder = Path(
                snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=list(patterns))
            )
        except (OSError, HFValidationError) as error:
            raise InputError(
                f"cannot get {' or '.join(patterns)} of {root} ({one_line(error)}); "
                "connect to the hub, or set the path of a local copy"
            ) from error
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

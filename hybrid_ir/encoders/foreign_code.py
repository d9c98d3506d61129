"""Code that a model's files name, to be run when it is loaded. The model is refused, or its very code was trusted.

In: a folder or a hub name. Out: a sentence, or None where nothing runs that was not trusted.

A model may name Python in three places. modules.json names the class of each module, and router_config.json of each
route; a class outside of sentence-transformers is a file of the model's own, or anything that is installed. `auto_map`
in config.json or tokenizer_config.json names a file of the model's own for transformers. Where transformers knows the
`model_type` too it would pass over that file and say nothing, and read the weights into another architecture.

Only the last kind can be trusted, and only in a folder: whoever starts the command names the hash of all Python files
in it, in the environment variable HYBRID_IR_TRUSTED_CODE. No file says so, and none of a model, a config or an index
can. A changed file has another hash, so what runs is what was read. A copy that this project writes has the same files,
and each process that loads it needs the same consent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sentence_transformers.util import load_file_path

from hybrid_ir.types import InputError

TRUSTED = "HYBRID_IR_TRUSTED_CODE"
"""The environment variable: hashes of code that may run, with commas between them."""
OURS = "sentence_transformers."
INSTEAD = "choose a model that transformers and sentence-transformers load by themselves"


def code_of_its_own(name: str, revision: str | None = None) -> str | None:
    """What of the model would run code that came with it, and what to do; None if nothing would."""
    modules = _read(name, "modules.json", revision)
    entries = [entry for entry in modules if isinstance(entry, dict)] if isinstance(modules, list) else []
    for entry in entries:
        if not str(entry.get("type")).startswith(OURS):
            return (
                f"its modules.json names {_shown(entry.get('type'))}, which is not of sentence-transformers; {INSTEAD}"
            )
    paths = {str(entry.get("path") or "") for entry in entries}
    # One that leads out of the folder is not looked into; sentence-transformers refuses to load it.
    folders = sorted({""} | {path for path in paths if not path.startswith("/") and ".." not in Path(path).parts})
    for folder in folders:
        for file, classes in _routes(name, folder, revision):
            for named in classes:
                if not str(named).startswith(OURS):
                    return f"its {file} names {_shown(named)}, which is not of sentence-transformers; {INSTEAD}"
        for file, named in _auto_maps(name, folder, revision):
            first = next(iter(named.values())) if isinstance(named, dict) else named
            if refused := _not_trusted(name, named):
                return f"its {file} names Python code of the model's own (auto_map: {_shown(first)}); {refused}"
    return None


def own_code(name: str) -> dict[str, bytes] | None:
    """The Python files of a model that names code of its own, by their paths in its folder; None where it names none.

    They may run if `code_of_its_own` has nothing against the model.
    """
    folders = ("", *(path.name for path in sorted(Path(name).glob("[0-9]*_*"))))
    if Path(name).is_dir() and any(True for folder in folders for _ in _auto_maps(name, folder, None)):
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in sorted(Path(name).rglob("*.py"))}
    return None


def hash_of(code: Mapping[str, bytes]) -> str:
    """SHA-256 of the files' paths and contents: what HYBRID_IR_TRUSTED_CODE names."""
    digest = hashlib.sha256()
    for path, content in sorted(code.items()):
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def carry_code(model: Any, code: Mapping[str, bytes]) -> None:
    """Have what is saved of the model hold this code, and its space id know it."""
    vars(model)["own_code"] = dict(code)


def carried_code(model: Any) -> dict[str, bytes]:
    """The code that came with the model and was trusted; empty for a model that the libraries load alone."""
    return vars(model).get("own_code", {})


def _not_trusted(name: str, named: Any) -> str | None:
    """What to do instead of running this code; None if it was trusted."""
    if any("--" in str(each) for each in (named.values() if isinstance(named, dict) else [named])):
        return f"that lies in another repository, and no hash of this folder holds it; {INSTEAD}"
    if not Path(name).is_dir():
        return (
            f"{INSTEAD}, or fetch one commit of it (hf download {name} --revision COMMIT --local-dir FOLDER), and give "
            "that folder"
        )
    trusted = [each.strip() for each in os.environ.get(TRUSTED, "").split(",") if each.strip()]
    for each in trusted:
        if not re.fullmatch("[0-9a-f]{64}", each):
            raise InputError(f"{TRUSTED} must be hashes of 64 hexadecimal digits, got {each!r:.80}; unset it")
    found = hash_of(own_code(name) or {})
    if found in trusted:
        return None
    return f"{INSTEAD}, or read its code, and if you trust it set {TRUSTED}={found}"


def _auto_maps(name: str, folder: str, revision: str | None) -> Iterator[tuple[str, Any]]:
    """The files that name code for transformers, each with what it names."""
    for file in ("config.json", "tokenizer_config.json"):
        file = f"{folder}/{file}".lstrip("/")
        content = _read(name, file, revision)
        if named := content.get("auto_map") if isinstance(content, dict) else None:
            yield file, named


def _routes(name: str, folder: str, revision: str | None) -> Iterator[tuple[str, list[Any]]]:
    """The files in which a router names the classes of its routes, each with what it names."""
    for file in ("router_config.json", "config.json"):
        file = f"{folder}/{file}".lstrip("/")
        content = _read(name, file, revision)
        types = content.get("types") if isinstance(content, dict) else None
        if isinstance(types, dict) and "structure" in content:
            yield file, list(types.values())


def _read(name: str, file: str, revision: str | None) -> Any:
    """The file's JSON; None where there is no such file, or it is damaged, which its reader says."""
    found = load_file_path(name, file, revision=revision)  # raises where the hub does not say whether it is there
    try:
        return json.loads(Path(found).read_text(encoding="utf-8")) if found else None
    except (ValueError, RecursionError):
        return None


def _shown(named: Any) -> str:
    return f"{named!r:.80}"

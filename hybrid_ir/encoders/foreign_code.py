"""Code that a model's files name, to be run when it is loaded. It is never run here: the model is refused instead.

In: a folder or a hub name. Out: a sentence, or None where transformers and sentence-transformers are all it takes.

A model may name Python in three places. modules.json names the class of each module, and router_config.json of each
route; a class outside of sentence-transformers is a file of the model's own, or anything that is installed. `auto_map`
in config.json or tokenizer_config.json names a file of the model's own for transformers. Where transformers knows the
`model_type` too it would pass over that file and say nothing, and read the weights into another architecture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentence_transformers.util import load_file_path

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
        for file in ("config.json", "tokenizer_config.json"):
            file = f"{folder}/{file}".lstrip("/")
            content = _read(name, file, revision)
            named = content.get("auto_map") if isinstance(content, dict) else None
            if named:
                first = next(iter(named.values())) if isinstance(named, dict) else named
                return f"its {file} names Python code of the model's own (auto_map: {_shown(first)}); {INSTEAD}"
    return None


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

"""What a user wrote, as an experiment. In: a YAML file, `dotted.path=value` words, mappings. Out: `Experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.config.experiment import Experiment
from hybrid_ir.config.section import Section, fields_of
from hybrid_ir.config.sources import SOURCES
from hybrid_ir.config.validation import did_you_mean, validate
from hybrid_ir.config.yaml_input import parse_overrides, read_mapping
from hybrid_ir.types import InputError


def load_experiment(file: str | Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """The defaults, changed by a YAML file, changed by `dotted.path=value` overrides (values are YAML).

    Raises InputError that names the key, the value found, the file it came from, and the nearest known key.
    """
    tree = {} if file is None else read_mapping(file)
    for path, value in parse_overrides(overrides):
        set_value(tree, path, value)
    origins = [*([str(file)] if file is not None else []), *(["command line"] if overrides else [])]
    return parse_experiment(tree, " + ".join(origins) or "defaults")


def parse_experiment(tree: Any, origin: str) -> Experiment:
    """Validate a nested mapping. `origin` is named in the error."""
    return validate(Experiment, tree, origin, "config", tuple(SOURCES), _explain)


def set_value(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a dotted path of a tree, in place. Raises InputError where the tree can hold no such key."""
    keys = path.split(".")
    node: Any = tree
    default: Any = Experiment()
    for depth, key in enumerate(keys[:-1]):
        at = _place(node, keys, depth)
        default = getattr(default, key, None) if isinstance(default, Section) else None
        if isinstance(node, dict) and node.get(key) is None:
            # A list is addressed by position, so it must be there: its default if the file has none.
            listed = isinstance(default, tuple)
            node[key] = [entry.model_dump(mode="json") for entry in default] if listed else {}
        node = node[at]
    node[_place(node, keys, len(keys) - 1)] = value


def _place(node: Any, keys: list[str], depth: int) -> Any:
    """What `node`, at keys[:depth], calls keys[depth]: a list counts. Raises InputError if it can hold no such key."""
    key = keys[depth]
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise InputError(f"{'.'.join(keys[: depth + 1])}: the list has {len(node)} entries, numbered from 0")
        return int(key)
    if not isinstance(node, dict):
        raise InputError(f"{'.'.join(keys[:depth])} is a value, it has no key {key!r}")
    return key


def _explain(error: Any, path: str) -> str | None:
    if error["type"] == "extra_forbidden":
        above, _, name = path.rpartition(".")
        known = [at for at, _ in fields_of(Experiment)]
        here = [at for at in known if at.rpartition(".")[0] == above]
        if error["loc"][:2] == ("prepare", "sources"):
            here = [f"{above}.{field}" for field in SOURCES[error["loc"][3]].model_fields]
        return f"unknown key {path!r}; {did_you_mean(name, here, known, 'known keys here')}"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        found = error["input"].get("kind") if isinstance(error["input"], dict) else error["input"]
        return f"{path}: kind must be one of {', '.join(SOURCES)}, got {found!r}"
    return None

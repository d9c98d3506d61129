"""What a user writes as YAML 1.2. In: a file, or `dotted.path=value` words. Out: plain mappings and values, unchecked.

PyYAML reads YAML 1.1, in which `no` is false, `1e-4` a text, 12:30 a number and the last of two equal keys stands. Here
words mean what YAML 1.2's core schema says, and a repeated key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hybrid_ir.types import InputError, one_line

MAX_NODES = 100_000
"""Values in a file, with what its aliases repeat: a file of ten lines can stand for more than any memory holds."""


def read_mapping(file: str | Path, what: str = "config file") -> dict[str, Any]:
    """What a YAML file holds; {} if it is empty. Raises InputError if there is no such file, or no mapping in it."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no {what} at {file}; the repository's tune_configs/ has examples")
    try:
        tree = _load(path.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text: {one_line(error)}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise InputError(f"{file} must hold a mapping at its top, found {type(tree).__name__}")
    return tree


def parse_overrides(overrides: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Dotted path and YAML value of each word. Raises InputError for a word that is not `path=value`."""
    for override in overrides:
        path, text = split_override(override, "train.steps=100")
        yield path, _value(text, f"the value of {override!r}")


def split_override(override: str, example: str) -> tuple[str, str]:
    """Key and text of `key=text`. Raises InputError, with an example, if it is none."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"an override must look like {example}, got {override!r}")
    return key, text


def _value(text: str, what: str) -> Any:
    """A list, a mapping or a quoted text as YAML has it; anything else is one word, with all that is in it."""
    stripped = text.strip()
    if stripped[:1] not in ("[", "{", '"', "'"):
        # Typed on a command line, `a #1/run` holds no comment, and `query: ` is no mapping.
        tag = _Loader("").resolve(yaml.ScalarNode, stripped, (True, False))
        try:
            is_text = tag == "tag:yaml.org,2002:str"
            return text if is_text else _Loader("").construct_object(yaml.ScalarNode(tag, stripped))
        except ValueError as error:
            raise InputError(f"{what} is not readable YAML: {one_line(error)}") from error
    return _load(stripped, what, whole=True)


def _load(text: str, what: str, whole: bool = False) -> Any:
    """The value in `text`. With `whole`, a comment after it is an error."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if whole and node.end_mark.index < len(text):
            raise InputError(f"{what} has more after its end, {text[node.end_mark.index :]!r}; quote all of it")
        _count(node, {}, what)
        return loader.construct_document(node)
    except _RepeatedKey as error:
        raise InputError(f"{what}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        hint = "; a # after a space begins a comment, so quote a text that has one" if whole and " #" in text else ""
        said = one_line(error).replace('"<unicode string>", ', "")
        raise InputError(f"{what} is not readable YAML: {said}{hint}") from error


class _RepeatedKey(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    first = lines[key.value]
                    where = f"twice in line {line}" if first == line else f"in line {first} and again in line {line}"
                    raise _RepeatedKey(f"{key.value!r} stands {where}; keep one of them")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: Any) -> int:
    text = loader.construct_scalar(node)
    if len(text) > 40:  # Python prints no integer of more than 4300 digits, and nothing here is so large
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text, 8 if "o" in text else 16 if "x" in text else 10)


def _number(loader: _Loader, node: Any) -> float:
    return float(re.sub(r"\.(?=[a-z])", "", loader.construct_scalar(node).lower()))  # .inf, .nan


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def _count(node: Any, done: dict[int, int | None], what: str) -> int:
    """Values that a node stands for, aliases written out."""
    if id(node) in done:
        size = done[id(node)]
        if size is None:
            raise InputError(f"{what} has an alias that stands for itself; write it out")
        return size
    done[id(node)] = None
    children = node.value if isinstance(node.value, list) else ()
    size = 1
    for child in children:
        for part in child if isinstance(child, tuple) else (child,):
            size += _count(part, done, what)
    if size > MAX_NODES:
        raise InputError(f"{what} stands for more than {MAX_NODES:,} values with its aliases; write less")
    done[id(node)] = size
    return size

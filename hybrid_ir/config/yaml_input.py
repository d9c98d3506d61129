"""What a user writes as YAML. In: a file, or `dotted.path=value` words. Out: plain mappings and values, unchecked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hybrid_ir.types import InputError


def read_mapping(file: str | Path, what: str = "config file") -> dict[str, Any]:
    """What a YAML file holds; {} if it is empty. Raises InputError if there is no such file, or no mapping in it."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no {what} at {file}; the repository's tune_configs/ has examples")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file} must hold a mapping at its top, found {type(tree).__name__}")
    return tree


def parse_overrides(overrides: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Dotted path and YAML value of each word. Raises InputError for a word that is not `path=value`."""
    for override in overrides:
        path, text = split_override(override, "train.steps=100")
        try:
            yield path, yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"the value of {override!r} is not YAML: {' '.join(str(error).split())}") from error


def split_override(override: str, example: str) -> tuple[str, str]:
    """Key and text of `key=text`. Raises InputError, with an example, if it is none."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"an override must look like {example}, got {override!r}")
    return key, text

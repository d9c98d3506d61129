"""The options that several commands take. In: what is typed. Out: types for the commands' parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

N = TypeVar("N", int, float)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; see hybrid_ir/config/base.yaml for every key.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Ray and of the libraries.")]
IndexFolder = Annotated[str, typer.Option("--index", help="Folder of the index.")]
WaitForNodes = Annotated[
    int, typer.Option(min=0, help="Seconds to wait for nodes that the cluster's autoscaler brings; 0 = not to.")
]


def listed(words: str | None) -> list[str]:
    """Words between commas, without the space around them; none of none."""
    return [word.strip() for word in (words or "").split(",") if word.strip()]


def by_name(words: str, option: str, number: Callable[[str], N]) -> dict[str, N]:
    """`de=0.05,en=0.02` as numbers by name. Raises InputError for a part that is not NAME=NUMBER, or stands twice."""
    from hybrid_ir.types import InputError

    values: dict[str, N] = {}
    for word in listed(words):
        name, _, said = word.partition("=")
        try:
            value = number(said)
        except ValueError:
            kind = "a whole number" if number is int else "a number"
            raise InputError(f"{option} takes NAME=VALUE with {kind}, comma-separated; got {word!r}") from None
        if name in values:
            raise InputError(f"{option} names {name!r} twice")
        values[name] = value
    return values


def key_values(said: str) -> Any:
    """The words that come last, `key=value` each."""
    return typer.Argument(metavar="[KEY=VALUE]...", help=said)


def check_read(overrides: Sequence[str] | None, command: str, *sections: str) -> None:
    """Raises InputError for a typed key of a section that the command does not read: it would change nothing."""
    from hybrid_ir.types import InputError

    for word in overrides or ():
        key = word.partition("=")[0]
        section, dot, _ = key.partition(".")
        if dot and section not in sections:
            raise InputError(
                f"`hybrid-ir {command}` does not read {key}, only seed and {' and '.join(f'{x}.*' for x in sections)}; "
                "leave it out"
            )


Overrides = Annotated[list[str] | None, key_values("For example train.steps=100 out=runs/a")]
IndexKeys = Annotated[list[str] | None, key_values("For example index.shards=4 seed=1")]
ServeKeys = Annotated[list[str] | None, key_values("For example serve.port=8001 serve.placement=local")]

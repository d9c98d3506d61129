"""The options that several commands take. In: what is typed. Out: types for the commands' parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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


def key_values(said: str) -> Any:
    """The words that come last, `key=value` each."""
    return typer.Argument(metavar="[KEY=VALUE]...", help=said)


Overrides = Annotated[list[str] | None, key_values("For example train.steps=100 out=runs/a")]
IndexKeys = Annotated[list[str] | None, key_values("For example index.shards=4 serve.port=8001")]

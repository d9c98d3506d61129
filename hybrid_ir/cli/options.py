"""The options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; see tune_configs/base.yaml for every key.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Ray and of the libraries.")]
WaitForNodes = Annotated[
    int, typer.Option(min=0, help="Seconds to wait for nodes that the cluster's autoscaler brings; 0 = not to.")
]

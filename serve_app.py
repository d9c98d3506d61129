"""The app for `serve run serve_app:app index=INDEX`, `serve build` and `serve deploy`.

In: typed arguments. Out: a Serve app.
"""

import os

from pydantic import Field
from ray import serve

from hybrid_ir.config import Serve
from hybrid_ir.serving import build_app
from hybrid_ir.types import InputError


class Arguments(Serve):
    """The index, and any key of the `serve` section. `host` and `port` are Serve's own here (http_options)."""

    index: str = Field(default_factory=lambda: os.environ.get("HYBRID_IR_INDEX", ""))
    """Folder of the index; one that every node sees. HYBRID_IR_INDEX for `serve build`, which takes no arguments."""
    checkpoint: str | None = None
    """Encoder to use in place of the index's own copy; it must have the index's space id."""


def app(args: Arguments) -> serve.Application:
    if not args.index:
        raise InputError("no index: serve run serve_app:app index=FOLDER, args.index in the YAML, or HYBRID_IR_INDEX")
    settings = Serve(**args.model_dump(exclude={"index", "checkpoint"}))
    return build_app(args.index, settings, args.checkpoint)

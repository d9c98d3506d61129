"""The app for `serve run serve_app:app index=INDEX`, `serve build` and `serve deploy`: typed arguments in, Serve app out."""

from ray import serve

from hybrid_ir.config import Serve
from hybrid_ir.deployments import build_app


class Arguments(Serve):
    """The index, and any key of the `serve` section. `host` and `port` are Serve's own here (http_options)."""

    index: str
    """Folder of the index; one that every node sees."""
    checkpoint: str | None = None
    """Encoder to use in place of the index's own copy; it must have the index's space id."""


def app(args: Arguments) -> serve.Application:
    settings = Serve(**args.model_dump(exclude={"index", "checkpoint"}))
    return build_app(args.index, settings, args.checkpoint)

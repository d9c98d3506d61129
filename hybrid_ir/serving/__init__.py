"""Serving: an index over HTTP. Queries in; passages out, from one process or from Ray Serve's replicas.

A request starts in `http_app.create_app`, whose handler of /search calls `SearchService.search`. That hands its queries
to the release's `Batcher`, which has the `Release` encode and search them. `ray_serve/gateway.py` is the replica around
all of it, and `ray_serve/control.py` starts one.

Other rooms import what `__init__.pyi` lists, and nothing else. Each name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

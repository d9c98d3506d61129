"""The user's cache of what is fetched: `$XDG_CACHE_HOME/hybrid_ir`, a folder for each state of what was fetched.

In: what a folder is known by, and what fills it. Out: the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

CACHE_SHARE = 0.5
"""Of the disk space that is free or taken by the cache itself."""
CACHE_KEEPS_S = 600


def cached(key: Any, fill: Callable[[Path], None]) -> Path:
    """The cache's folder of this key, filled now if it is not there. Then the cache is cut to its bound.

    `fill` writes into a folder of its own, which becomes this one when it is complete.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid_ir"
    place = root / hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()
    if not place.exists():
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root))
        try:
            fill(partial)
            with suppress(OSError):  # another process has fetched the same
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _evict(root)
    with suppress(OSError):
        os.utime(place)  # when it was last used
    return place


def _evict(root: Path) -> None:
    """Remove what was used longest ago, until the cache is within `CACHE_SHARE` of what the disk could give it.

    What was used in the last `CACHE_KEEPS_S` stays: somebody may be opening it. Files that are open can be read on.
    """
    entries = [(path.stat().st_mtime, path) for path in root.iterdir() if path.is_dir()]
    sizes = {path: sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) for _, path in entries}
    total = sum(sizes.values())
    bound = CACHE_SHARE * (shutil.disk_usage(root).free + total)
    for used, path in sorted(entries):
        if total <= bound or time.time() - used < CACHE_KEEPS_S:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]

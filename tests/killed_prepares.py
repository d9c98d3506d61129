"""A program that the tests run: prepare killed by the system's KILL at every moment it is told, and then run again.

In: a folder with old.jsonl and new.jsonl, and moments, as shares of all that a prepare opens, renames and removes.
Out: exit code 0 if after every kill the store was the old one, whole, or the new one, and the same command then made
what one that nobody killed makes. Each prepare is a fork, so that libraries are loaded once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# They take a second to load, which each fork would spend.
import pandas  # noqa: F401
import scipy.sparse.csgraph  # noqa: F401

from hybrid_ir.config.sources import RecordsSource
from hybrid_ir.data.inputs import inputs_for
from hybrid_ir.data.prepare import prepare
from hybrid_ir.languages import form_order

MOMENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlsym")


def run(source: Path, store: Path) -> None:
    inputs = inputs_for([RecordsSource(kind="records", path=str(source))])
    prepare(inputs, str(store), seed=0, validation_fraction=0.1, test_fraction=0.2, settings={})


def forked(action: Callable[[], None]) -> int:
    """How the action ended in a process of its own: 0, or the signal that ended it, negative."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(moment: int, source: Path, store: Path) -> None:
    passed = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal passed
        if event in MOMENTS:
            passed += 1
            if passed == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run(source, store)


def count(source: Path, store: Path, to: Path) -> None:
    passed = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal passed
        passed += event in MOMENTS

    sys.addaudithook(hook)
    run(source, store)
    os.write(os.open(to, os.O_CREAT | os.O_WRONLY), str(passed - 1).encode())


def content(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


def main(folder: Path, shares: list[float]) -> None:
    form_order("en")  # babel's data, for all forks
    old, new = folder / "old.jsonl", folder / "new.jsonl"
    assert forked(lambda: run(old, folder / "is" / "old")) == 0
    assert forked(lambda: run(new, folder / "is" / "new")) == 0
    shutil.copytree(folder / "is" / "old", folder / "counted" / "s")
    assert forked(lambda: count(new, folder / "counted" / "s", folder / "moments")) == 0
    moments = int((folder / "moments").read_text())
    whole = {name: content(folder / "is" / name) for name in ("old", "new")}
    found = set()
    for share in shares:
        place = folder / f"killed-{share}"
        shutil.copytree(folder / "is" / "old", place / "s")
        ended = forked(lambda at=1 + int(share * moments), to=place: killed_at(at, new, to / "s"))
        assert ended == -signal.SIGKILL, f"at {share}: {ended}"
        stood = [name for name in whole if content(place / "s") == whole[name]]
        assert stood, f"killed at {share}: neither the old store nor the new one, but {sorted(content(place))}"
        found.update(stood)
        assert forked(lambda to=place: run(new, to / "s")) == 0
        assert content(place / "s") == whole["new"], f"killed at {share}, then run again: another store"
        assert [p.name for p in place.iterdir()] == ["s"], f"killed at {share}: {sorted(place.iterdir())} is left"
    print(moments, "moments; stood:", " ".join(sorted(found)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(share) for share in sys.argv[2:]])

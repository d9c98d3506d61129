"""Builds and additions that are killed at a moment, or whose disk is full, each in a process of its own.

    python tests/broken_builds.py FOLDER SEED POINTS

FOLDER holds encoder/, first.jsonl and more.jsonl. Prints a line for each try, and raises at the first that does not go
on to the same files. A process is forked for each, before anything computes, so that libraries are imported once.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from without_ray import without_ray

import hybrid_ir.encoders.loading
from hybrid_ir.config.experiment import Index
from hybrid_ir.index import fragments
from hybrid_ir.index.build import build_index
from hybrid_ir.index.changes.change import add_passages
from hybrid_ir.index.folder import check_files, read_manifest
from hybrid_ir.types import InputError

assert hybrid_ir.encoders.loading
SETTINGS = Index(codec="IVF4,SQ8", shards=2, recall_target=0, recall_sample=5)
WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def main(root: Path, seed: int, points: int) -> None:
    without_ray(pytest.MonkeyPatch())
    fragments.FRAGMENT_ROWS = 32
    lots = random.Random(seed)
    for name, start, command in (("build", None, build), ("add", root / "build", add)):
        reference, counted = root / name, root / "count"
        copy(start, reference)

        def count_writes(out: Path = reference, command: Callable = command, counted: Path = counted) -> None:
            count = on_write(out)
            command(root, out)
            counted.write_text(str(count()))

        assert forked(count_writes) == 0
        count, wanted = int(counted.read_text()), tree(reference)
        for at in sorted(lots.sample(range(1, count + 1), min(points, count))):
            out = copy(start, root / "broken")
            died = forked(lambda out=out, command=command, at=at: (on_write(out, at), command(root, out)))
            assert died == -signal.SIGKILL, died
            goes_on(root, out, command, start, wanted, f"{name} killed at write {at} of {count}")
        for size in lots.sample((100, 1000, 4000, 9000, 20_000), 3):
            out = copy(start, root / "broken")
            full = forked(lambda out=out, command=command, size=size: (limit(size), command(root, out)))
            assert full in (0, 3), f"{name} on a full disk ({size}): {full}"
            goes_on(root, out, command, start, wanted, f"{name} with files of at most {size} bytes: {full}")


def goes_on(root: Path, out: Path, command: Callable, start: Path | None, wanted: dict[str, Any], what: str) -> None:
    if start is not None:
        manifest = read_manifest(out)
        for files in (manifest.files, *(shard.files for shard in manifest.shards)):
            check_files(out, files)
    assert forked(lambda: command(root, out)) == 0, what
    found = tree(out)
    assert found.keys() == wanted.keys(), (what, found.keys() ^ wanted.keys())
    assert [name for name in wanted if found[name] != wanted[name]] == [], what
    print(what, "- the same files", flush=True)


def build(root: Path, out: Path) -> None:
    build_index(str(root / "encoder"), [str(root / "first.jsonl")], str(out), SETTINGS, seed=0)


def add(root: Path, out: Path) -> None:
    add_passages(str(out), [str(root / "more.jsonl")], SETTINGS, seed=0)


def copy(start: Path | None, out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    if start is not None:
        shutil.copytree(start, out)
    return out


def forked(work: Callable[[], Any]) -> int:
    """Exit status: 0; 3 for an OSError or InputError; 4 for another error; negative for a signal."""
    child = os.fork()
    if not child:
        status = 4
        try:
            work()
            status = 0
        except (OSError, InputError) as error:
            limit(resource.RLIM_INFINITY)  # what is printed may go to a file too
            print(f"  {type(error).__name__}: {error}", flush=True)
            status = 3
        except BaseException as error:
            limit(resource.RLIM_INFINITY)
            traceback.print_exception(error)
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def on_write(out: Path, kill_at: int = -1) -> Callable[[], int]:
    """Count what changes something below `out`, and be killed just before one of them; returns what tells the count."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        path = str(arguments[0]) if arguments else ""
        if event == "open":
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and path.startswith(str(out))
        else:
            # Python removes a tree by names relative to its folders.
            changes = event in WRITES and (path.startswith(str(out)) or os.sep not in path)
        if changes:
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: seen


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def tree(folder: Path) -> dict[str, Any]:
    """Every file's content; of manifests without when they were written."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content: Any = path.read_bytes()
        if path.suffix == ".json" and "encoder" not in path.parts:
            content = {k: v for k, v in json.loads(content).items() if k not in ("created", "checksum")}
        found[path.relative_to(folder).as_posix()] = content
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

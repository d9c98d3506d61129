"""What this process may use of its machine: all of it, or what its container leaves.

In: nothing. Out: CPUs and bytes. Control groups of both versions are read; elsewhere than on Linux there are none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
KEEPING_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)}
"""Environment of a process of glibc that keeps memory that was freed. A training step asks for the gigabytes that the
step before has freed; to have the system clear their pages each time takes six hundredths of the step."""


def usable_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may run on, and is given time on: at least one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups(root, "cpu"):
        quota, period = _words(folder / "cpu.max") or (  # version 2; in version 1 two files have a number each
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ) or ("max", "max")  # fmt: skip
        if quota.isdigit() and period.isdigit() and int(period):  # no limit is "max", or -1
            cpus = min(cpus, int(quota) // int(period))
    return max(1, cpus)


def usable_memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process and its neighbours in its container may take together."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            memory = min([memory, *(int(word) for word in _words(folder / name) if word.isdigit())])
    return memory


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of those above it, each of which may set a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # A container sees its own group at the top, and in version 1 a folder for each controller.
        base = root / "sys/fs/cgroup"
        for top in (base / controller, base / controllers) if controllers else (base, base / "unified"):
            inner = Path(path.lstrip("/"))
            yield from (top / part for part in (inner, *inner.parents))


def _words(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text().split())
    except OSError:
        return ()

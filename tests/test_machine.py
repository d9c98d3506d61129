"""CPUs and memory are the container's, not the machine's."""

from __future__ import annotations

import os

import pytest

from hybrid_ir import machine
from hybrid_ir.config import Serve
from hybrid_ir.machine import usable_cpus, usable_memory
from hybrid_ir.serving.ray_serve import deployments

GB = 2**30


@pytest.fixture(autouse=True)
def big(monkeypatch):
    """A machine of 64 CPUs, all of which the process may run on, and 256 GB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256 * GB // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)


def write(root, **files: str):
    for name, content in {"proc/self/cgroup": "0::/\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_a_container_it_is_the_machine(tmp_path):
    assert (usable_cpus(tmp_path), usable_memory(tmp_path)) == (64, 256 * GB)


def test_a_container_of_control_groups_version_2(tmp_path):
    root = write(tmp_path, **{"sys/fs/cgroup/cpu.max": "350000 100000\n", "sys/fs/cgroup/memory.max": f"{8 * GB}\n"})
    assert (usable_cpus(root), usable_memory(root)) == (3, 8 * GB)


def test_no_limit_in_version_2_is_the_word_max(tmp_path):
    root = write(tmp_path, **{"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"})
    assert (usable_cpus(root), usable_memory(root)) == (64, 256 * GB)


def test_a_limit_of_a_group_above_holds_too(tmp_path):
    root = write(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/kubepods/pod1/inner\n",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kubepods/pod1/memory.max": f"{4 * GB}\n",
        },
    )
    assert (usable_cpus(root), usable_memory(root)) == (2, 4 * GB)


@pytest.mark.parametrize("inside", ["", "docker/abc/"])
def test_a_container_of_version_1_sees_its_group_at_the_top_or_by_its_path(tmp_path, inside):
    root = write(
        tmp_path,
        **{
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
            f"sys/fs/cgroup/cpu/{inside}cpu.cfs_quota_us": "150000\n",
            f"sys/fs/cgroup/cpu/{inside}cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/memory/{inside}memory.limit_in_bytes": f"{2 * GB}\n",
        },
    )
    assert (usable_cpus(root), usable_memory(root)) == (1, 2 * GB)


def test_no_limit_in_version_1_is_minus_one_and_a_huge_number(tmp_path):
    root = write(
        tmp_path,
        **{
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert (usable_cpus(root), usable_memory(root)) == (64, 256 * GB)


def test_a_process_that_is_bound_to_some_cpus_has_those(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
    assert usable_cpus(tmp_path) == 2


def test_placement_and_threads_of_the_service_follow_it(tmp_path, monkeypatch):
    root = write(tmp_path, **{"sys/fs/cgroup/cpu.max": "400000 100000\n", "sys/fs/cgroup/memory.max": f"{4 * GB}\n"})
    monkeypatch.setattr(machine.usable_cpus, "__defaults__", (root,))
    monkeypatch.setattr(machine.usable_memory, "__defaults__", (root,))
    assert deployments._threads(Serve(), 2) == 2
    for size, fits in ((GB - 1, True), (GB + 1, False)):
        monkeypatch.setattr(deployments, "bytes_of", lambda _, size=size: size)
        assert deployments.fits_here(None) == fits  # type: ignore[arg-type]

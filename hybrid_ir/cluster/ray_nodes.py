"""Nodes that a command needs. In: a training, a cluster that grows. Out: its resources once they are enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from hybrid_ir.config import Experiment
from hybrid_ir.training import DRIVER_CPUS, bundles, check_resources, concurrent_trials
from hybrid_ir.types import InputError

LOOK_EVERY_S = 1.0
SETTLE_S = 30
"""For nodes that came to reserve what was asked for; on a busy cluster they may not be able to."""


def cluster_for(
    experiment: Experiment, resources: dict[str, float], seconds: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Resources of the cluster as soon as it holds the training: `resources`, or what they grow to within `seconds`.

    Raises InputError, after that long, if it does not.
    """
    return _grown(resources, bundles(experiment), lambda now: check_resources(experiment, now), seconds, say)


def cluster_for_trials(
    base: Experiment, resources: dict[str, float], at_a_time: int | None, seconds: int, say: Callable[[str], None]
) -> tuple[dict[str, float], int]:
    """As `cluster_for`, for a sweep that trains `at_a_time` (None: as many as fit); and how many that is."""

    def check(now: dict[str, float]) -> None:
        room = concurrent_trials(base, now)
        if at_a_time is not None and room < at_a_time:
            raise InputError(f"the cluster holds {room} trials at a time, not {at_a_time}; lower --at-a-time")

    needs = [{"CPU": DRIVER_CPUS}, *bundles(base)] * (at_a_time or 1)
    resources = _grown(resources, needs, check, seconds, say)
    return resources, at_a_time or concurrent_trials(base, resources)


def _grown(
    resources: dict[str, float],
    needs: Sequence[dict[str, float]],
    check: Callable[[dict[str, float]], None],
    seconds: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Resources of the cluster as soon as they pass `check`, which raises InputError while they do not.

    Until then a placement group of `needs`, what each process reserves on one node, stands in Ray's queue: that is what
    its autoscaler brings nodes for.
    """
    try:
        check(resources)
        return resources
    except InputError as error:
        if not seconds:
            raise InputError(f"{error}. On a cluster that grows, --wait-for-nodes SECONDS has it bring nodes") from None
        missing = str(error).partition(";")[0]
    say(f"waiting up to {seconds} s for nodes: {missing}")
    group = placement_group([dict(need) for need in needs])
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(LOOK_EVERY_S)
            resources = dict(ray.cluster_resources())
            try:
                check(resources)
            except InputError as error:
                missing = str(error).partition(";")[0]
                continue
            group.wait(SETTLE_S)  # a node counts before it can start processes
            return resources
    finally:
        remove_placement_group(group)
    raise InputError(f"{missing}, after {seconds} s of waiting for nodes; `ray status` shows what the autoscaler tried")

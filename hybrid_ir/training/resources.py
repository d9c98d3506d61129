"""What a training needs. In: an experiment, a cluster's resources. Out: needs, a refusal, or how many trainings fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hybrid_ir.config import Experiment
from hybrid_ir.types import InputError

DRIVER_CPUS = 0.1
"""Reserved for the process that looks after a trial; it sleeps while the workers train."""


def bundles(experiment: Experiment) -> list[dict[str, float]]:
    """What each worker, each data actor and the validation beside them reserve on one node, as Ray counts."""
    settings = experiment.train
    asked = [(settings.cpus_per_worker, settings.gpus_per_worker)] * settings.workers
    asked += [(settings.cpus_per_data_actor, 0.0)] * (settings.data_actors if settings.feed == "ray_data" else 0)
    if settings.validation == "async":
        asked.append((settings.cpus_per_validation, settings.gpus_per_validation))
    return [{"CPU": cpus, **({"GPU": gpus} if gpus else {})} for cpus, gpus in asked]


def check_resources(experiment: Experiment, resources: Mapping[str, float]) -> None:
    """Raise InputError when workers and data actors do not fit the cluster together: Ray would wait for ever."""
    settings = experiment.train
    actors = settings.data_actors if settings.feed == "ray_data" else 0
    beside = settings.cpus_per_validation if settings.validation == "async" else 0
    need = _sum(bundles(experiment))
    have = resources.get("CPU", 0)
    if need["CPU"] > have:
        raise InputError(
            f"training needs {need['CPU']:g} CPUs ({settings.workers} workers x {settings.cpus_per_worker:g} + "
            f"{actors} data actors x {settings.cpus_per_data_actor:g}"
            f"{f' + {beside:g} for validation' if beside else ''}), the cluster has {have:g}; "
            "lower train.workers or train.cpus_per_worker (fractions are allowed), or set train.feed=in_process"
        )
    if need["GPU"] > resources.get("GPU", 0):
        raise InputError(
            f"training needs {need['GPU']:g} GPUs, the cluster has {resources.get('GPU', 0):g}; "
            "lower train.workers, or set train.gpus_per_worker=0"
        )


def encoding_options(experiment: Experiment) -> dict[str, float]:
    """Ray's options for a task that encodes with a trained encoder: it gets what one of the training's workers had."""
    return {"num_cpus": experiment.train.cpus_per_worker, "num_gpus": experiment.train.gpus_per_worker}


def use_encoding_threads(experiment: Experiment) -> None:
    """Have torch take as many threads in such a task as in a training's worker. Ray gives a task of 1.5 CPUs one."""
    import torch

    torch.set_num_threads(experiment.train.threads_per_worker or max(1, math.ceil(experiment.train.cpus_per_worker)))


def concurrent_trials(base: Experiment, resources: Mapping[str, float]) -> int:
    """How many trials the cluster holds at a time. Raises InputError when it does not hold one."""
    check_resources(base, dict(resources) | {"CPU": resources.get("CPU", 0) - DRIVER_CPUS})
    need = _sum(bundles(base))
    fits = [resources.get("CPU", 0) / (DRIVER_CPUS + need["CPU"])]
    if need["GPU"]:
        fits.append(resources.get("GPU", 0) / need["GPU"])
    return max(1, int(min(fits) + 1e-6))


def _sum(needs: list[dict[str, float]]) -> dict[str, float]:
    return {kind: sum(each.get(kind, 0.0) for each in needs) for kind in ("CPU", "GPU")}

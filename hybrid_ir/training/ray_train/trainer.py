"""Ray Train, set up for a training. In: what every worker is given. Out: a trainer that starts them once."""

from __future__ import annotations

import os
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from hybrid_ir.config import Experiment
from hybrid_ir.machine import KEEPING_MEMORY
from hybrid_ir.storage import absolute, open_filesystem
from hybrid_ir.training.ray_train.exchange import Assignment
from hybrid_ir.training.ray_train.process_group import NodeTorchConfig
from hybrid_ir.training.ray_train.saved import next_start


def make_trainer(given: Assignment) -> TorchTrainer:
    """Of one start of the workers: its checkpoints go to a folder of its own below RUN/ray."""
    experiment, settings = given.experiment, given.experiment.train

    def enter_worker(given: Assignment) -> None:
        # Pickled by value, and importing where it runs: the controller unpickles it too, and would spend ten seconds
        # of a small machine on importing what only workers need.
        from hybrid_ir.training.ray_train.worker import train_worker

        train_worker(given)

    def enter_validation(checkpoint: ray.train.Checkpoint, **_: Any) -> dict[str, float]:
        from hybrid_ir.training.ray_train.worker import validate_checkpoint

        return validate_checkpoint(checkpoint, given)

    gpu, asynchronous = settings.gpus_per_worker > 0, settings.validation == "async"
    per_worker = {"CPU": settings.cpus_per_worker, **({"GPU": settings.gpus_per_worker} if gpu else {})}
    per_validation = {"num_cpus": settings.cpus_per_validation, "num_gpus": settings.gpus_per_validation}
    filesystem, inner = open_filesystem(experiment.out)
    return TorchTrainer(
        enter_worker,  # pyright: ignore[reportArgumentType]
        train_loop_config=given,  # type: ignore[arg-type]
        torch_config=NodeTorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers, use_gpu=gpu, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(
            name=next_start(experiment.out),
            storage_filesystem=filesystem,
            storage_path=f"{inner}/ray",
            worker_runtime_env={"env_vars": {k: v for k, v in KEEPING_MEMORY.items() if k not in os.environ}},
            # Ray would start the workers again whatever ended them. `launch` does, where that may help.
            failure_config=ray.train.FailureConfig(max_failures=0),
            # Where there are scores, Ray keeps the latest beside the best.
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=settings.checkpoints_kept,
                checkpoint_score_attribute=settings.early_stopping_measure if asynchronous else None,
            ),
        ),
        validation_config=ray.train.ValidationConfig(fn=enter_validation, ray_remote_kwargs=per_validation)
        if asynchronous
        else None,
    )


def anywhere(experiment: Experiment) -> Experiment:
    """The experiment for processes that stand in other working directories: its lexicon by its full path."""
    batch = experiment.batch
    if batch.lexicon == "cldr":
        return experiment
    return experiment.model_copy(update={"batch": batch.model_copy(update={"lexicon": absolute(batch.lexicon)})})

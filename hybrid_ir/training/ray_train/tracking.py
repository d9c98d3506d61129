"""Where a run's rows go besides its log.jsonl. In: rows of the log. Out: TensorBoard, MLflow, Weights & Biases.

MLflow and W&B find their server, project and credentials in their own environment variables (`MLFLOW_TRACKING_URI`,
`WANDB_PROJECT`, ...). A run is named by its folder; a resumed one goes on in the same MLflow and W&B run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hybrid_ir.types import InputError


class Tracker(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values are named `train/loss`, `validation/AP_mean`, ..."""
        ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError for a tracker whose package, which has its name, is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"train.trackers names {name}, which is not installed; run: pip install {name}")


def open_trackers(names: Sequence[str], run: Path, settings: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of the run folder `run`, whose experiment `settings` describes."""
    known = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}
    return [known[name](run, settings) for name in names]


def tracked(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log row, named by what they belong to."""
    group = "train" if "loss" in row else "validation"
    return {f"{group}/{key}": value for key, value in row.items() if isinstance(value, int | float) and key != "step"}


class _TensorBoard:
    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        known = _remembered(run, "mlflow")
        if known is None:
            experiment = self._client.get_experiment_by_name("hybrid-ir")
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment("hybrid-ir")
            known = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            for key, value in settings.items():
                self._client.log_param(known, key, value[:500])
            _remember(run, "mlflow", known)
        self._run_id = known
        self._client.update_run(self._run_id, status="RUNNING")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow's names hold no `@`, as in R@1.
        self._client.log_batch(self._run_id, [Metric(k.replace("@", "_at_"), v, now, step) for k, v in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


class _WandB:
    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]  # an extra that is not always installed

        known = _remembered(run, "wandb")
        self._run = wandb.init(
            id=known, resume="allow" if known else None, name=run.name, dir=str(run), config=dict(settings)
        )
        _remember(run, "wandb", self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


def _remembered(run: Path, tracker: str) -> str | None:
    path = run / "trackers.json"
    return json.loads(path.read_text(encoding="utf-8")).get(tracker) if path.is_file() else None


def _remember(run: Path, tracker: str, run_id: str) -> None:
    path = run / "trackers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(known | {tracker: run_id}), encoding="utf-8")

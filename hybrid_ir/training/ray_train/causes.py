"""Why a training failed. In: what Ray Train raised. Out: what the user can mend, and whether another try may help.

A retry cures a process or a node that was lost. It cures no divergence, no damaged store, no wrong setting and no lack
of memory: those would come again, after as many steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import ray.exceptions as lost
import torch
import torch.distributed as dist

from hybrid_ir.config import Experiment
from hybrid_ir.storage import is_uri
from hybrid_ir.training.run_folder import storage_lost
from hybrid_ir.types import InputError, one_line

LOST = (
    lost.RayActorError,
    lost.ActorUnschedulableError,
    lost.WorkerCrashedError,
    lost.NodeDiedError,
    lost.LocalRayletDiedError,
    lost.ObjectLostError,
    lost.ObjectFetchTimedOutError,
)
"""A process or a node that is not there any more, or what it held."""

PEER_GONE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
"""What a rank says whose peer was lost."""

NO_MEMORY = re.compile(r"out of memory|can't allocate memory|low on memory", re.IGNORECASE)


def cause_of(error: BaseException, experiment: Experiment) -> BaseException:
    """An InputError where the user can mend what is behind the error, else the error itself."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, InputError):
            return InputError(str(cause))
        if isinstance(cause, FloatingPointError):
            return InputError(f"training diverged: {cause}")
    for cause in causes:
        if _no_memory(cause):
            now = experiment.train.micro_batch_tokens
            return InputError(
                f"out of memory ({one_line(cause)}); lower train.micro_batch_tokens (now {now or 'null'}) or set "
                "loss.cached=true, and run the same command again: a run may go on with other values of both. If it "
                "came in a validation, lower evaluate.token_budget"
            )
    lost_storage = next((each for each in causes if type(each) is OSError), None)  # what pyarrow raises for a URI
    if is_uri(experiment.out) and lost_storage is not None:
        return storage_lost(experiment.out, lost_storage)
    return error


def is_curable(error: BaseException) -> bool:
    """Whether a process or a node was lost, and nothing else happened."""
    causes = list(_causes(error))
    if any(isinstance(each, InputError | FloatingPointError) or _no_memory(each) for each in causes):
        return False
    # A rank whose peer is gone fails in its own way, now and then before Ray has noticed.
    return any(isinstance(each, LOST) for each in causes) or all(_peer_gone(each) for each in causes)


def _peer_gone(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | dist.DistNetworkError | dist.DistBackendError):
        return True
    return isinstance(error, RuntimeError) and PEER_GONE.search(str(error)) is not None


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError | lost.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What an error wraps, however deep: the innermost of each branch, or what says enough."""
    if isinstance(error, (InputError, FloatingPointError, *LOST)):
        yield error
        return
    wrapped = [getattr(error, name, None) for name in ("cause", "base_exc", "_base_exc", "controller_failure")]
    wrapped += [getattr(error, "health_check_failure", None), error.__cause__]
    wrapped += list(getattr(error, "worker_failures", {}).values())
    inner = {id(each): each for each in wrapped if isinstance(each, BaseException) and each is not error}
    if not inner:
        yield error
    for each in inner.values():
        yield from _causes(each)

"""Why a training failed. In: what Ray Train raised. Out: what the user can mend, dug out of its wrapping."""

from __future__ import annotations

from ray.train import WorkerGroupError

from hybrid_ir.types import InputError


def cause_of(error: BaseException) -> BaseException:
    """An InputError where a worker or a diverged training is behind the error, else the error itself."""
    todo = [error]
    while todo:
        e = todo.pop()
        if isinstance(e, InputError):
            return InputError(str(e))
        if isinstance(e, FloatingPointError):
            return InputError(f"training diverged: {e}")
        if isinstance(e, WorkerGroupError):
            todo += list(e.worker_failures.values())
        wrapped = (getattr(e, "cause", None), getattr(e, "base_exc", None), e.__cause__)
        todo += [each for each in wrapped if isinstance(each, BaseException)]
    return error

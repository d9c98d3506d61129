"""Ray, joined or started quietly. In: RAY_ADDRESS, or CPUs of this machine. Out: the resources of a cluster."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from hybrid_ir.types import InputError


@contextmanager
def ray_session(verbose: bool, cpus: int | None = None, *, shielded: bool = True) -> Iterator[dict[str, float]]:
    """Yield the cluster's resources. Joins the cluster of RAY_ADDRESS, else starts one here and ends it afterwards.

    One that is started has `cpus` of the machine's CPUs (None = all). If it is `shielded`, SIGTERM and SIGINT are for
    this process alone, which can save while Ray's processes go on.
    """
    # Token authentication stays on; naming it drops a warning. Ray reads it at import, and set any later it would
    # reach the servers that Ray starts but not this process, which they then refuse.
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # report() waits for the controller's next look, 2 s apart by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not verbose:
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's new output ignores verbose=0
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # every trial's run folder has its own log
    # A sweep has more processes than CPUs, most of them asleep; Ray warns at four times this, on any terminal.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    address = os.environ.get("RAY_ADDRESS")
    if not address:  # one machine is not taken away piece by piece: no process to watch for that
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray

    arguments: dict[str, Any] = (
        {"address": address} if address else {"address": "local", "include_dashboard": False, "num_cpus": cpus}
    )
    try:
        with _sigterm_blocked() if shielded else nullcontext():
            ray.init(
                **arguments,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                configure_logging=verbose,
            )
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}; start one or unset it ({error})") from error
    try:
        yield dict(ray.cluster_resources())
    finally:
        ray.shutdown()


@contextmanager
def term_is_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, where Ray's own handler would print what every thread was doing.

    Once: `timeout` sends it to the command and then to its group, and what follows is left to end in peace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Context whose child processes, and theirs, never see SIGTERM: they inherit what this thread blocks.

    `timeout` and Slurm send it to a whole process group and systemd to all that a service started, whichever group they
    are in. Ray blocks SIGINT so itself. At its end Ray kills what SIGTERM does not end.
    """
    if threading.current_thread() is not threading.main_thread():  # its mask would not be what this thread's is
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def live_nodes() -> int:
    """Nodes of the cluster that this process has joined."""
    import ray

    return sum(node["Alive"] for node in ray.nodes())

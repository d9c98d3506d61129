"""Ctrl-C and SIGTERM while a training runs: the first asks it to save, the second does not wait."""

from __future__ import annotations

import os
import signal

import pytest

from hybrid_ir.training.ray_train.launcher import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    before = signal.getsignal(number)
    with stop_signals() as wanted:
        assert not wanted.is_set()
        os.kill(os.getpid(), number)
        assert wanted.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before

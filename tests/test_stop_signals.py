"""Ctrl-C and SIGTERM while a training runs: the first asks it to save, a later one does not wait."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from hybrid_ir.cluster.ray_cluster import term_is_interrupt
from hybrid_ir.training.ray_train import launcher
from hybrid_ir.tuning import sweeps


@pytest.fixture
def clock(monkeypatch):
    times = SimpleNamespace(now=0.0)
    monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: times.now))
    return times


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_a_later_one_interrupts(number, clock):
    before = signal.getsignal(number)
    with launcher.stop_signals() as wanted:
        assert not wanted.is_set()
        os.kill(os.getpid(), number)
        assert wanted.is_set()
        clock.now = 1.5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_one_that_is_sent_to_the_command_and_to_its_group_is_one(clock):
    with launcher.stop_signals() as wanted:
        os.kill(os.getpid(), signal.SIGTERM)
        clock.now = 0.1
        os.kill(os.getpid(), signal.SIGTERM)
        assert wanted.is_set()


def test_a_sweep_hears_sigterm_as_one_ctrl_c(monkeypatch):
    heard = []
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sweeps.os, "kill", lambda _, number: heard.append(number))
    with sweeps._term_is_interrupt():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_ends_an_encoding_as_one_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), term_is_interrupt():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # that of the group, while all is being ended
    finally:
        signal.signal(signal.SIGTERM, before)
    with term_is_interrupt():
        pass
    assert signal.getsignal(signal.SIGTERM) is before

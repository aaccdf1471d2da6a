"""Signals that ask a run to stop."""

import os
import signal
import time

import pytest

from recsys.training import stop as stopping
from recsys.training.stop import stop_signals


def test_the_first_signal_is_remembered_and_its_echo_ignored() -> None:
    """Slurm signals every process of a step; torchrun passes on what it gets itself."""
    with stop_signals() as stop:
        assert stop.name is None
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.name == "SIGTERM"


def test_a_later_ctrl_c_interrupts_and_a_later_sigterm_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "ECHO_SECONDS", 0.0)
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before

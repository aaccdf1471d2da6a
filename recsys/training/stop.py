"""Signals that ask a run to stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

ECHO_SECONDS = 1.0  # two signals closer than this are one request to stop


class StopFlag:
    """Set by Ctrl-C or SIGTERM; `name` is read once a step."""

    name: str | None = None

    def is_set(self) -> bool:
        """For where there are no steps: while validating."""
        return self.name is not None


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Turns SIGINT and SIGTERM into a flag; another Ctrl-C later interrupts at once.

    A job gets one request to stop several times: Slurm signals every process of a step, and so
    does torchrun. Whoever loses patience after SIGTERM sends SIGKILL.
    """
    flag = StopFlag()
    asked = 0.0

    def handle(number: int, _frame: object) -> None:
        nonlocal asked
        if flag.name is None:
            flag.name, asked = signal.Signals(number).name, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - asked > ECHO_SECONDS:
            raise KeyboardInterrupt

    before = {}
    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, handle)
    try:
        yield flag
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

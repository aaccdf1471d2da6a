"""Two or more things timed by turns."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


def use_one_core() -> None:
    """Binds this process and its threads to one core, so that nothing overlaps for free."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@dataclass(frozen=True)
class Seconds:
    """What one run took: of this process's CPU time, all threads, and of the clock."""

    cpu: float
    wall: float


class Stopwatch:
    """Times the body of a `with` statement."""

    seconds: Seconds

    def __enter__(self) -> "Stopwatch":
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = Seconds(time.process_time() - self._cpu, time.perf_counter() - self._wall)


def by_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, warmup: bool = True
) -> dict[str, list[Seconds]]:
    """Times each of `runs` once a round, in turn; a round before the first is not counted.

    A run may return its own `Seconds`, if not all of it is to be timed.
    """
    found: dict[str, list[Seconds]] = {name: [] for name in runs}
    for number in range(rounds + warmup):
        for name, run in runs.items():
            with Stopwatch() as watch:
                own = run()
            if number or not warmup:
                found[name].append(own if isinstance(own, Seconds) else watch.seconds)
    return found


def median(values: list[Seconds]) -> Seconds:
    """The medians."""
    return Seconds(
        statistics.median(v.cpu for v in values), statistics.median(v.wall for v in values)
    )


def compare(first: list[Seconds], second: list[Seconds]) -> dict[str, float]:
    """How many times as long `first` took as `second`: median, min and max over rounds."""
    cpu = [a.cpu / b.cpu for a, b in zip(first, second, strict=True)]
    wall = [a.wall / b.wall for a, b in zip(first, second, strict=True)]
    return {
        "ratio": statistics.median(cpu),
        "ratio_min": min(cpu),
        "ratio_max": max(cpu),
        "ratio_wall": statistics.median(wall),
    }


def speed(rows: int, values: list[Seconds]) -> dict[str, Any]:
    """Rows a second of CPU time and by the clock."""
    middle = median(values)
    return {"rows_per_second": rows / middle.cpu, "rows_per_second_wall": rows / middle.wall}

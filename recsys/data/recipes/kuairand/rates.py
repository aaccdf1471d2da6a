"""Causal rates: how the events of a user, a video, a tag … went before the request.

A rate is `(Σ y + a p) / (n + a)`, with p the expectation below. A residual is
`Σ (y - E) / (n + a)`, where E is what the event's tab and duration bucket let one expect at the
event's own time: it tells a user who long-views more than others from one who is on a tab, or is
shown durations, where everybody does.
"""

import numpy as np

from recsys.data.recipes.kuairand.causal import ONE, CausalSums, Slices, dense_codes
from recsys.data.recipes.kuairand.options import TASKS
from recsys.data.recipes.kuairand.read import Columns

# Where nothing has been seen yet. Round figures, with the weight of 20 events: they matter for
# the first minutes of the log only.
FIRST_GUESS = {"click": 0.4, "long_view": 0.3, "like": 0.02, "profile_enter": 0.02}
FIRST_GUESS_WEIGHT = 20
CELL_WEIGHT = 50


class Expectation:
    """P(task | tab, duration bucket), from events of all users strictly before a moment."""

    def __init__(self, log: Columns, bucket: np.ndarray):
        labels = {task: log[task] for task in TASKS}
        self._tab = dense_codes(log["tab"])
        self._cell = dense_codes(log["tab"], bucket)
        self._by_tab = CausalSums(self._tab, log["time_ms"], labels)
        self._by_cell = CausalSums(self._cell, log["time_ms"], labels)

    def at(self, task: str, rows: np.ndarray, before: np.ndarray) -> np.ndarray:
        """`[len(rows)]` expectation for the tab and duration of log rows as known at `before`."""
        tab = self._by_tab.slices(self._tab[rows], before)
        cell = self._by_cell.slices(self._cell[rows], before)
        of_tab = (self._by_tab.sum(task, tab) + FIRST_GUESS_WEIGHT * FIRST_GUESS[task]) / (
            tab.count + FIRST_GUESS_WEIGHT
        )
        return (self._by_cell.sum(task, cell) + CELL_WEIGHT * of_tab) / (cell.count + CELL_WEIGHT)


def event_values(log: Columns, expectation: Expectation) -> dict[str, np.ndarray]:
    """Integers to sum: task -> 0/1, `task.residual` -> (y - E at the event's time) * ONE."""
    rows = np.arange(len(log["time_ms"]))
    values = {}
    for task in TASKS:
        expected = expectation.at(task, rows, log["time_ms"])
        values[task] = log[task]
        values[f"{task}.residual"] = log[task] * ONE - np.rint(expected * ONE).astype(np.int64)
    return values


def rate_features(
    sums: CausalSums,
    slices: Slices,
    prefix: str,
    *,
    tasks: tuple[str, ...],
    weight: float,
    expected: dict[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Count, and for each task the residual and (given `expected`) the rate, over the slices."""
    count = slices.count
    features = {f"{prefix}_count": count.astype(np.float64)}
    for task in tasks:
        residual = sums.sum(f"{task}.residual", slices) / ONE
        features[f"{prefix}_{task}_residual"] = residual / (count + weight)
        if expected is not None:
            features[f"{prefix}_{task}_rate"] = (
                sums.sum(task, slices) + weight * expected[task]
            ) / (count + weight)
    return features

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
FIRST_GUESS = {
    "click": 0.4,
    "long_view": 0.3,
    "like": 0.02,
    "profile_enter": 0.02,
    "watch": 0.6,
    "play": 2.0,
}
FIRST_GUESS_WEIGHT = 20
CELL_WEIGHT = 50
# Longer plays are loops of the video, or a phone left alone.
MAX_RATIO = 2
MAX_PLAY_S = 300
WATCH = ("watch", "play")


class Expectation:
    """Mean outcome of a tab and duration bucket, from all users' events before a moment."""

    def __init__(self, log: Columns, bucket: np.ndarray):
        labels = {task: log[task] * ONE for task in TASKS} | watch_values(log)
        self._tab = dense_codes(log["tab"])
        self._cell = dense_codes(log["tab"], bucket)
        self._by_tab = CausalSums(self._tab, log["time_ms"], labels)
        self._by_cell = CausalSums(self._cell, log["time_ms"], labels)

    def at(self, task: str, rows: np.ndarray, before: np.ndarray) -> np.ndarray:
        """`[len(rows)]` expectation for the tab and duration of log rows as known at `before`."""
        tab = self._by_tab.slices(self._tab[rows], before)
        cell = self._by_cell.slices(self._cell[rows], before)
        of_tab = (self._by_tab.sum(task, tab) / ONE + FIRST_GUESS_WEIGHT * FIRST_GUESS[task]) / (
            tab.count + FIRST_GUESS_WEIGHT
        )
        of_cell = self._by_cell.sum(task, cell) / ONE
        return (of_cell + CELL_WEIGHT * of_tab) / (cell.count + CELL_WEIGHT)


def watch_values(log: Columns) -> Columns:
    """How long each event was watched, as integers of `ONE` parts.

    `watch` is the share of the video's duration, at most 2 (0 where the duration is unknown);
    `play` the logarithm of the seconds.
    """
    duration = np.maximum(log["duration_ms"], 1)
    ratio = np.where(log["duration_ms"] > 0, log["play_time_ms"] / duration, 0.0)
    # Whole tenths of a second from a table: equal times get equal logarithms, to the bit.
    logarithm = np.rint(np.log1p(np.arange(MAX_PLAY_S * 10 + 1) / 10) * ONE).astype(np.int64)
    tenths = np.clip(log["play_time_ms"] // 100, 0, MAX_PLAY_S * 10)
    return {
        "watch": np.rint(np.clip(ratio, 0, MAX_RATIO) * ONE).astype(np.int64),
        "play": logarithm[tenths],
    }


def event_values(log: Columns, expectation: Expectation) -> dict[str, np.ndarray]:
    """Integers of `ONE` parts: the outcomes, and `NAME.residual`: y - E at the event's time."""
    rows = np.arange(len(log["time_ms"]))
    values = {task: log[task] * ONE for task in TASKS} | watch_values(log)
    for name in tuple(values):
        expected = expectation.at(name, rows, log["time_ms"])
        values[f"{name}.residual"] = values[name] - np.rint(expected * ONE).astype(np.int64)
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
                sums.sum(task, slices) / ONE + weight * expected[task]
            ) / (count + weight)
    return features

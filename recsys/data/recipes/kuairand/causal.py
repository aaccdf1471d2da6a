"""Sums over the events of a key strictly before a moment, for all moments at once.

Everything is summed in integers: a float sum over a sorted log rounds differently once any row of
it changes, and inputs must not change by a bit when a later row does.
"""

from dataclasses import dataclass

import numpy as np

# Fractions (expectations and residuals) are kept as integers of this many parts.
ONE = 1 << 20


def dense_codes(*columns: np.ndarray) -> np.ndarray:
    """One int64 code for each distinct tuple of the columns."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        code = code * len(values) + inverse
        code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    return code


@dataclass
class Slices:
    """Positions [start, stop) in a `CausalSums` order, one slice a question."""

    start: np.ndarray
    stop: np.ndarray

    @property
    def count(self) -> np.ndarray:
        return self.stop - self.start

    def last(self, n: int) -> "Slices":
        """Only the n latest events of each slice."""
        return Slices(np.maximum(self.start, self.stop - n), self.stop)


class CausalSums:
    """Events sorted by key and time, with running sums of integer values.

    Args:
        code: `[E]` dense key of each event (`dense_codes`).
        time: `[E]` time_ms, ascending.
        values: name -> `[E]` integers to be summed.
    """

    def __init__(self, code: np.ndarray, time: np.ndarray, values: dict[str, np.ndarray]):
        self._order = np.argsort(code, kind="stable")
        self._origin = int(time[0]) if len(time) else 0
        self._span = int(time[-1]) - self._origin + 2 if len(time) else 2
        self.time = time[self._order]
        self._key = code[self._order] * self._span + (self.time - self._origin)
        self._values = values
        self._sums: dict[str, np.ndarray] = {}

    def add_values(self, values: dict[str, np.ndarray]) -> None:
        self._values = self._values | values

    def slices(
        self, code: np.ndarray, before: np.ndarray, since: np.ndarray | None = None
    ) -> Slices:
        """The events of each key with since <= time < before."""

        def position(time: np.ndarray | int) -> np.ndarray:
            clipped = np.clip(time - self._origin, 0, self._span - 1)
            return np.searchsorted(self._key, code * self._span + clipped, side="left")

        stop = position(before)
        start = position(self._origin if since is None else since)
        return Slices(np.minimum(start, stop), stop)

    def sum(self, name: str, slices: Slices) -> np.ndarray:
        if name not in self._sums:
            running = np.zeros(len(self._order) + 1, dtype=np.int64)
            np.cumsum(self._values[name][self._order], out=running[1:])
            self._sums[name] = running
        return self._sums[name][slices.stop] - self._sums[name][slices.start]

    def last(self, column: np.ndarray, slices: Slices) -> np.ndarray:
        """The value of an `[E]` column at the latest event of each slice, NaN where it is empty."""
        if not len(self.time):
            return np.full(len(slices.stop), np.nan)
        value = column[self._order][np.maximum(slices.stop - 1, 0)].astype(np.float64)
        return np.where(slices.count > 0, value, np.nan)

    def last_time(self, slices: Slices) -> np.ndarray:
        """time_ms of the latest event of each slice as float64, NaN where it is empty."""
        if not len(self.time):
            return np.full(len(slices.stop), np.nan)
        time = self.time[np.maximum(slices.stop - 1, 0)].astype(np.float64)
        return np.where(slices.count > 0, time, np.nan)

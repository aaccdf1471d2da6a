"""The bootstrap over users, from sums by buckets of users.

Users are dealt to at most K buckets by a hash of their id, the same for every table. A resample
draws as many buckets as there are, with replacement; a metric of the resample is computed from the
weighted sums of the buckets. With fewer users than buckets a bucket is nearly always one user: the
ordinary bootstrap over users. With more, a bucket is a random set of users and the resample is the
ordinary bootstrap over these sets. They are as independent as users are, so the variance is the
right one; it is estimated from K draws and not from all users, with a relative standard error of
1/√(2K): 2.2 % of an interval's width for K = 1024.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1024
RESAMPLES = 1000
LEVEL = 0.95
LEAST_UNITS = 10  # buckets with rows; fewer say nothing about other users
MOST_WITHOUT_VALUE = 0.05  # share of resamples, for example without a positive


def resamples(active: NDArray[np.bool_], count: int, seed: int = 0) -> NDArray[np.float32]:
    """`[count, K]`: how often each bucket is drawn; buckets that are not `active` [K] never."""
    units = int(active.sum())
    weights = np.zeros((count, len(active)), np.float32)
    if units:
        drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), count)
        weights[:, active] = drawn
    return weights


@dataclass(frozen=True)
class Estimate:
    """A metric's value on the rows, and what the resamples say of it; None where it has none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    se: float | None = None

    def document(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "se": self.se}


def estimate(
    value: float | None,
    replicates: NDArray[np.float64],
    units: int,
    *,
    mirrored: bool = False,
    least: float | None = None,
) -> Estimate:
    """The interval of a metric at `LEVEL`, from its values in the resamples [B]; NaN: none.

    By percentiles. With `mirrored`, they are reflected at the value (the basic bootstrap): metrics
    that add up absolute gaps, as ECE, are larger in a resample than on the rows by about as much
    as on the rows than in truth. `least` bounds the interval below.
    """
    if value is None:
        return Estimate(None)
    known = replicates[~np.isnan(replicates)]
    if units < LEAST_UNITS or len(known) < (1 - MOST_WITHOUT_VALUE) * len(replicates):
        return Estimate(value)
    tail = (1 - LEVEL) / 2
    low, high = (float(x) for x in np.quantile(known, [tail, 1 - tail]))
    if mirrored:
        low, high = 2 * value - high, 2 * value - low
        if least is not None:
            low, high = max(low, least), max(high, least)
    return Estimate(value, low, high, float(known.std(ddof=1)))


Weights = NDArray[np.floating]


def weighted(weights: Weights, sums: NDArray[Any]) -> NDArray[np.float64]:
    """`[B, K]` weights and sums `[K, …]` → `[B, …]`, in the precision of the weights.

    Resamples are float32, which is 1e-6 of a sum and far inside its interval.
    """
    flat = sums.reshape(sums.shape[0], -1)
    filled = np.flatnonzero(flat.any(axis=1))
    if len(filled) < len(flat) // 2:  # mostly empty buckets cost nothing
        weights, flat = weights[:, filled], flat[filled]
    found = weights @ flat.astype(weights.dtype)
    return found.reshape(len(weights), *sums.shape[1:]).astype(np.float64)


def ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """`top / bottom`, NaN where the bottom is not above 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


Statistic = Callable[[Weights], dict[str, NDArray[np.float64]]]

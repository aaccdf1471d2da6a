"""What measurements say: which plan is faster, by how much, and how sure that is."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast as the default plan, with an interval of `LEVEL`."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `no difference` if the interval holds 1."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "no difference"


def speed_up(default: list[float], other: list[float], seed: int = 0) -> SpeedUp:
    """The geometric mean over rounds of default ÷ other, with a percentile bootstrap over rounds.

    A round measures both one shortly after the other: what slows the machine for a while slows
    both, and is not in their ratio. A plain percentile interval of few rounds is too narrow; this
    is the expanded one of Hesterberg, "What teachers should know about the bootstrap" (2015).
    """
    from scipy.stats import norm, t

    ratios = np.log(np.asarray(default)) - np.log(np.asarray(other))
    draw = np.random.default_rng(seed)
    picked = draw.integers(0, len(ratios), (RESAMPLES, len(ratios)))
    count = len(ratios)
    tail = (1 - LEVEL) / 2
    if count > 1:
        tail = float(norm.cdf(np.sqrt(count / (count - 1)) * t.ppf(tail, count - 1)))
    low, high = np.quantile(ratios[picked].mean(axis=1), [tail, 1 - tail])
    return SpeedUp(float(np.exp(ratios.mean())), float(np.exp(low)), float(np.exp(high)))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of estimates and measurements; None where all are equal."""

    value: float | None
    p_value: float | None


def rank_correlation(estimates: list[float], measured: list[float]) -> Correlation:
    """Whether plans that are estimated faster are faster."""
    from scipy.stats import spearmanr

    if len(set(estimates)) < 2 or len(set(measured)) < 2:
        return Correlation(None, None)
    found = spearmanr(estimates, measured)
    return Correlation(float(found.statistic), float(found.pvalue))

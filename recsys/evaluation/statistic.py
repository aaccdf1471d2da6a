"""Sums of one slice → its metrics, on the rows as they are or in many resamples at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.bootstrap import Weights, ratio, weighted
from recsys.evaluation.metrics import METRICS
from recsys.evaluation.sums import MOMENTS, ROWS, WEIGHT, Y

Values = dict[str, NDArray[np.float64]]


@dataclass
class Slice:
    """One slice of one task: its sums by buckets [K, …] and what is exact only as a whole."""

    moments: NDArray[np.float64]  # [K, 8], see `sums.MOMENTS`
    ece: NDArray[np.float64]  # [K, 100]
    ece_raw: NDArray[np.float64] | None
    scores: NDArray[np.float32]  # [K, bins, 2]
    totals: NDArray[np.float64]  # [bins, 2]
    logits: NDArray[np.float64]  # [60, 2]
    gauc: NDArray[np.float64]  # [K, 2]
    hit: NDArray[np.float64]  # [K, 1 + len(top)]
    soft: bool
    auc: float | None
    pr_auc: float | None
    top: Sequence[int] = ()

    @property
    def units(self) -> int:
        """Buckets that have rows."""
        return int((self.moments[:, ROWS] > 0).sum())

    def moment(self, name: str) -> float:
        """A moment of the whole slice."""
        return float(self.moments[:, MOMENTS.index(name)].sum())

    def values(self, weights: Weights) -> Values:
        """Every metric `[B]` for weights `[B, K]` of the buckets; NaN: no value."""
        found = moment_values(weighted(weights, self.moments), self.ece_raw is not None)
        total = weighted(weights, self.moments[:, WEIGHT])
        none = np.full(len(total), np.nan)
        found["ece"] = ratio(np.abs(weighted(weights, self.ece)).sum(axis=1), total)
        if self.ece_raw is not None:
            found["ece_raw"] = ratio(np.abs(weighted(weights, self.ece_raw)).sum(axis=1), total)
        if self.soft:
            found |= {"auc": none, "pr_auc": none, "gauc": none}
        else:
            gauc = weighted(weights, self.gauc)
            found["gauc"] = ratio(gauc[:, 0], gauc[:, 1])
            found |= self._binned_ranking(weights)
        hit = weighted(weights, self.hit)
        for i, k in enumerate(self.top):
            found[f"hit@{k}"] = ratio(hit[:, 1 + i], hit[:, 0])
        return found

    def exact(self) -> dict[str, float | None]:
        """Every metric of the rows as they are; None: no value."""
        values = {n: _plain(v[0]) for n, v in self.values(np.ones((1, len(self.moments)))).items()}
        return values | {
            "auc": None if self.soft else self.auc,
            "pr_auc": None if self.soft else self.pr_auc,
        }

    def metrics(self) -> dict[str, int | float | None]:
        """What `metrics.task_metrics` gives for the rows of the slice, and `hit@k`."""
        exact = self.exact()
        counts = {name: round(self.moment(name)) for name in ("rows", "positives")}
        return {**counts, **{n: exact[n] for n in (*METRICS, *(f"hit@{k}" for k in self.top))}}

    def replicates(self, weights: Weights) -> Values:
        """`values` in resamples, moved by what the bins of the score cost on the rows as they are.

        AUC and PR-AUC of a resample count scores of one bin as ties; their exact values on the
        rows are known, so that the resamples only say how the value varies.
        """
        found = self.values(weights)
        binned = self._binned_ranking(np.ones((1, len(self.moments))))
        for name, exact in (("auc", self.auc), ("pr_auc", self.pr_auc)):
            if exact is not None and not self.soft:
                found[name] = found[name] + (exact - binned[name][0])
        return found

    def _binned_ranking(self, weights: Weights) -> Values:
        filled = np.flatnonzero(self.scores.any(axis=(0, 2)))
        counts = weighted(weights, self.scores[:, filled])  # [B, bins, 2]
        negatives, positives = counts[..., 0], counts[..., 1]
        below = negatives.cumsum(axis=1) - negatives
        n, p = negatives.sum(axis=1), positives.sum(axis=1)
        auc = ratio((positives * (below + negatives / 2)).sum(axis=1), n * p)
        # Those at or above each bin.
        tp = p[:, None] - (positives.cumsum(axis=1) - positives)
        fp = n[:, None] - below
        precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
        pr_auc = ratio((positives * precision).sum(axis=1), np.where(n > 0, p, 0.0))
        return {"auc": auc, "pr_auc": pr_auc}


def moment_values(moments: NDArray[np.float64], raw: bool) -> Values:
    """Metrics that are ratios of sums: `moments [B, 8]` → `[B]` each."""
    _, _, rows, y, p, ce, raw_p, raw_ce = np.moveaxis(moments, -1, 0)
    rate = ratio(y, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    entropy = np.where((rate > 0) & (rate < 1), entropy, 0.0)
    found = {
        "logloss": ratio(ce, rows),
        "ne": ratio(ratio(ce, rows), entropy),
        "pcoc": ratio(p, y),
        "base_rate": rate,
    }
    if raw:
        found |= {
            "logloss_raw": ratio(raw_ce, rows),
            "ne_raw": ratio(ratio(raw_ce, rows), entropy),
            "pcoc_raw": ratio(raw_p, y),
        }
    return found


def field_gap(moments: NDArray[np.float64], weights: Weights, column: str = "p") -> NDArray:
    """Field-ECE `[B]` of a field whose values have `moments [V, K, 8]`; `column` is p or raw."""
    gap = moments[..., Y] - moments[..., MOMENTS.index(column)]  # [V, K]
    rows = weighted(weights, moments[..., WEIGHT].sum(axis=0))
    return ratio(np.abs(weighted(weights, gap.T)).sum(axis=1), rows)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

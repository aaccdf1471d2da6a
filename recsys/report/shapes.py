"""What plots of one table show: reliability, score distributions, days."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.bootstrap import Weights, estimate, ratio, weighted
from recsys.evaluation.measure import Measured
from recsys.evaluation.slices import Slicing
from recsys.evaluation.statistic import Slice, moment_values
from recsys.evaluation.sums import LOGIT_BINS, LOGIT_LIMIT, MOMENTS, ROWS, WEIGHT

POINTS = 15  # of a reliability diagram
SAME = 1e-6  # relative difference of two sums of probabilities that are the same


def is_calibrated(own: Slice) -> bool:
    """Whether calibration changed the probabilities; without raw ones nobody knows."""
    if own.ece_raw is None:
        return False
    before, after = own.moment("raw"), own.moment("p")
    gaps = np.abs(own.totals[:, 0] - own.totals[:, 1]).sum()
    return bool(gaps > SAME * max(before, after))


def reliability(own: Slice, weights: Weights) -> list[dict[str, float | None]]:
    """Points of a reliability diagram, about as many rows in each, in order of the score.

    `{"rows", "predicted", "before", "observed", "low", "high"}`: mean probability after and before
    calibration, the observed rate and its interval. Cut by the score after calibration, which
    inside a surface ranks as the score before it does.
    """
    by_bucket = own.scores.sum(axis=2, dtype=np.float64)  # [K, bins]
    counts = by_bucket.sum(axis=0)
    total = counts.sum()
    if not total:
        return []
    middle = counts.cumsum() - counts / 2
    point = np.minimum((middle / total * POINTS).astype(int), POINTS - 1)
    found = []
    member = np.eye(POINTS)[point]  # [bins, points]
    all_rows, all_positives = by_bucket @ member, own.scores[..., 1] @ member  # [K, points]
    resampled = ratio(weighted(weights, all_positives), weighted(weights, all_rows))
    for each in np.unique(point[counts > 0]):
        inside = point == each
        rows, positives = all_rows[:, each], all_positives[:, each]
        rate = float(positives.sum() / rows.sum())
        interval = estimate(rate, resampled[:, each], int((rows > 0).sum()))
        p, raw = own.totals[inside].sum(axis=0) / rows.sum()
        before = float(raw) if is_calibrated(own) else None
        found.append(
            {
                "rows": float(rows.sum()),
                "predicted": float(p),
                "before": before,
                "observed": rate,
                "low": interval.low,
                "high": interval.high,
            }
        )
    return found


def score_distribution(own: Slice) -> dict[str, list[float]]:
    """Shares of the negatives and of the positives in bins of the logit."""
    edges = np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, LOGIT_BINS + 1)
    sums = own.logits.sum(axis=0)
    shares = np.divide(own.logits, sums, out=np.zeros_like(own.logits), where=sums > 0)
    return {
        "logit": [float(x) for x in (edges[1:] + edges[:-1]) / 2],
        "negatives": [float(x) for x in shares[:, 0]],
        "positives": [float(x) for x in shares[:, 1]],
    }


def by_day(
    measured: Measured, days: Slicing, surfaces: list[str], weights: Weights
) -> dict[str, Any]:
    """`{surface or "all": {task: [{"day", "rows", "base_rate", "ne", "pcoc"}]}}`."""
    count = len(days.labels) // len(surfaces)
    dates = [label.rpartition(" ")[2] for label in days.labels[:count]]
    found: dict[str, Any] = {}
    for task, moments in measured.days.items():
        shaped = moments.reshape(len(surfaces), count, *moments.shape[1:])
        for name, own in [*zip(surfaces, shaped, strict=True), ("all", shaped.sum(axis=0))]:
            if own[..., ROWS].sum():
                lines = [_day(date, own[d], weights) for d, date in enumerate(dates)]
                found.setdefault(name, {})[task] = [line for line in lines if line["rows"]]
    return found


def _day(date: str, moments: NDArray[np.float64], weights: Weights) -> dict[str, Any]:
    whole = moment_values(moments.sum(axis=0)[None], raw=False)
    resampled = moment_values(weighted(weights, moments), raw=False)
    units = int((moments[:, ROWS] > 0).sum())
    found: dict[str, Any] = {
        "day": date,
        "rows": int(moments[:, ROWS].sum()),
        "positives": int(moments[:, MOMENTS.index("positives")].sum()),
        "weight": float(moments[:, WEIGHT].sum()),
    }
    for name in ("base_rate", "ne", "pcoc"):
        value = None if np.isnan(whole[name][0]) else float(whole[name][0])
        found[name] = estimate(value, resampled[name], units).document()
    return found

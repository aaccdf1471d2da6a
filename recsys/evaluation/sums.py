"""What is summed over the rows of a task, for each slice and each bucket of users.

Everything that a metric or its interval needs from these rows is a sum over rows. The sums of a
bucket are one draw of the bootstrap: see `bootstrap`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.metrics import ECE_BINS, cross_entropy
from recsys.evaluation.rows import integers

# Counts; with the weight w of a row, sums of w, w y, w p and w CE; p and CE before calibration.
MOMENTS = ("rows", "positives", "weight", "y", "p", "ce", "raw", "ce_raw")
ROWS, WEIGHT, Y, P, RAW = (MOMENTS.index(name) for name in ("rows", "weight", "y", "p", "raw"))
LOGIT_BINS = 60
LOGIT_LIMIT = 10.0


class SliceSums:
    """The sums of one slicing: arrays of V slices and K buckets.

    `moments [V, K, 8]`, `ece [V, K, 100]` and `ece_raw` (Σ w (y − p) by bins of p), `scores
    [V, K, bins, 2]` (negatives and positives by bins of the score), and over all buckets
    `totals [V, bins, 2]` (Σ p, Σ raw) and `logits [V, 60, 2]`.
    """

    def __init__(self, slices: int, buckets: int, edges: NDArray[np.float64], raw: bool) -> None:
        self.edges = edges
        bins = len(edges) + 1
        self.moments = np.zeros((slices, buckets, len(MOMENTS)))
        self.ece = np.zeros((slices, buckets, ECE_BINS))
        self.ece_raw = np.zeros((slices, buckets, ECE_BINS)) if raw else None
        # Exact in float32 up to 2^24 rows of one bin of one bucket, if all weigh 1.
        self.scores = np.zeros((slices, buckets, bins, 2), np.float32)
        self.totals = np.zeros((slices, bins, 2))
        self.logits = np.zeros((slices, LOGIT_BINS, 2))
        self.soft = np.zeros(slices, bool)  # whether a label is a fraction

    def add(self, rows: "TaskRows", slice_of: NDArray[np.int64]) -> None:
        """Adds rows [n] to the slices `slice_of` [n]; -1: to none."""
        keep = slice_of >= 0
        v, k = slice_of[keep], rows.bucket[keep]
        buckets = self.moments.shape[1]
        cell = v * buckets + k
        moments = rows.moments[keep]
        flat = self.moments.reshape(-1, len(MOMENTS))
        np.add.at(flat, cell, moments)
        negative = moments[:, WEIGHT] - moments[:, Y]
        positive = moments[:, Y]
        gap = positive - moments[:, P]
        np.add.at(self.ece.reshape(-1), cell * ECE_BINS + rows.ece_bin[keep], gap)
        if self.ece_raw is not None and rows.raw_bin is not None:
            gap = positive - moments[:, RAW]
            np.add.at(self.ece_raw.reshape(-1), cell * ECE_BINS + rows.raw_bin[keep], gap)
        bins = self.scores.shape[2]
        score = rows.score_bin[keep]
        at = (cell * bins + score) * 2
        flat_scores = self.scores.reshape(-1)
        np.add.at(flat_scores, at, negative)
        np.add.at(flat_scores, at + 1, positive)
        np.add.at(self.totals.reshape(-1, 2), v * bins + score, moments[:, [P, RAW]])
        at = (v * LOGIT_BINS + rows.logit_bin[keep]) * 2
        np.add.at(self.logits.reshape(-1), at, negative)
        np.add.at(self.logits.reshape(-1), at + 1, positive)
        self.soft[v[rows.soft[keep]]] = True


class MomentSums:
    """Only the moments of a slicing with many slices: `moments [V, K, 8]`."""

    def __init__(self, slices: int, buckets: int) -> None:
        self.moments = np.zeros((slices, buckets, len(MOMENTS)))

    def add(self, rows: "TaskRows", slice_of: NDArray[np.int64]) -> None:
        keep = slice_of >= 0
        cell = slice_of[keep] * self.moments.shape[1] + rows.bucket[keep]
        np.add.at(self.moments.reshape(-1, len(MOMENTS)), cell, rows.moments[keep])


class TaskRows:
    """A batch of known rows of one task, as what is summed up."""

    def __init__(
        self, batch: Mapping[str, NDArray[Any]], buckets: int, edges: NDArray[np.float64]
    ) -> None:
        p, y, w = batch["p"], batch["y"].astype(np.float64), batch["w"]
        raw = batch.get("raw")
        self.bucket = (batch["unit"] % np.uint64(buckets)).astype(np.int64)
        p64 = p.astype(np.float64)
        zero = np.zeros(len(p))
        self.soft = (y != 0) & (y != 1)
        self.moments = np.stack(
            [
                np.ones(len(p)),
                y > 0,
                w,
                w * y,
                w * p64,
                w * cross_entropy(p, y),
                zero if raw is None else w * raw,
                zero if raw is None else w * cross_entropy(raw, y),
            ],
            axis=1,
        )
        self.score_bin = np.searchsorted(edges, p64, side="right")
        self.ece_bin = _unit_bin(p64)
        self.raw_bin = None if raw is None else _unit_bin(raw)
        with np.errstate(divide="ignore"):
            logit = np.log(p64) - np.log1p(-p64)
        scaled = (np.clip(logit, -LOGIT_LIMIT, LOGIT_LIMIT) / LOGIT_LIMIT + 1) / 2
        self.logit_bin = np.minimum((scaled * LOGIT_BINS).astype(np.int64), LOGIT_BINS - 1)

    @staticmethod
    def slice_of(batch: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
        return integers(batch[f"slice {name}"])


def _unit_bin(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of `metrics.ece`."""
    return np.digitize(p, np.linspace(0, 1, ECE_BINS + 1)[1:-1])

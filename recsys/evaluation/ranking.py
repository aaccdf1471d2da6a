"""AUC and PR-AUC of any number of rows, exactly, from rows that come in the order of their scores.

Rows arrive ascending by score, in batches; memory holds a few numbers a slice. A run of equal
scores may go on over batches: it is closed when a higher score arrives.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class RankedSlice:
    """One slice's AUC and average precision.

    Args:
        rows: Of the whole slice.
        positives, negatives: Weight of the slice's, which average precision needs from the start:
            at a score the rows above it are all rows less those that have come.
        quantiles: How many quantiles of the scores to keep on the way.
    """

    def __init__(
        self, rows: int = 0, positives: float = 0, negatives: float = 0, quantiles: int = 0
    ) -> None:
        self.positives, self.negatives = positives, negatives
        self.quantiles: list[NDArray[np.float64]] = []
        self._rows = 0  # that have come
        self._wanted = _places(rows, quantiles)
        self._seen = np.zeros(2)  # weight of negatives and positives of the closed runs
        self._run: tuple[float, NDArray[np.float64]] | None = None
        self._pairs = 0.0  # Σ over positives of the negatives below, ties half
        self._precision = 0.0  # Σ over runs of positives × precision

    def add(
        self,
        score: NDArray[np.floating],
        positive: NDArray[np.bool_],
        weight: NDArray[np.float64],
    ) -> None:
        """The next rows [n], ascending by score and not below the rows before them."""
        if not len(score):
            return
        here = self._wanted - self._rows
        here = here[(here >= 0) & (here < len(score))]
        self._rows += len(score)
        self.quantiles.append(score[here].astype(np.float64))
        starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
        # [runs, 2]; sums of weights that are 1 are exact.
        by_class = np.stack([np.where(positive, 0.0, weight), np.where(positive, weight, 0.0)], 1)
        counts = np.add.reduceat(by_class, starts)
        if self._run is not None:
            value, open_run = self._run
            if score[0] == value:
                counts[0] += open_run
            else:
                counts = np.concatenate([open_run[None], counts])
        self._run = (float(score[-1]), counts[-1].copy())
        self._close(counts[:-1])

    def result(self) -> tuple[float | None, float | None]:
        """AUC and PR-AUC; None without both classes."""
        if self._run is not None:
            self._close(self._run[1][None])
            self._run = None
        if not self.positives or not self.negatives:
            return None, None
        return (
            self._pairs / (self.positives * self.negatives),
            self._precision / self.positives,
        )

    def _close(self, counts: NDArray[np.float64]) -> None:
        """Runs [n, 2] that are complete."""
        if not len(counts):
            return
        ends = self._seen + counts.cumsum(0)
        before = ends - counts
        negatives, positives = counts[:, 0], counts[:, 1]
        self._pairs += float((positives * (before[:, 0] + negatives / 2)).sum())
        tp = self.positives - before[:, 1]
        fp = self.negatives - before[:, 0]
        above = tp + fp
        precision = np.divide(tp, above, out=np.zeros_like(tp), where=above > 0)
        self._precision += float((positives * precision).sum())
        self._seen = ends[-1]


def _places(rows: int, quantiles: int) -> NDArray[np.int64]:
    """Half of the places evenly over the rows, half ever closer to the highest score.

    Average precision is made at the top, where even bins would be too wide for it.
    """
    half = quantiles // 2
    if not rows or not half:
        return np.zeros(0, np.int64)
    even = np.linspace(0, rows - 1, half + 2)[1:-1]
    top = rows - np.geomspace(1, max(rows / 2, 1), half)
    return np.unique(np.concatenate([even, top]).astype(np.int64))


def edges_of(slices: Sequence[RankedSlice], most: int) -> NDArray[np.float64]:
    """Edges between bins of the score, at most `most`, from the slices' quantiles."""
    found = np.unique(np.concatenate([np.zeros(0), *(q for s in slices for q in s.quantiles)]))
    if len(found) > most:
        found = found[np.linspace(0, len(found) - 1, most).astype(np.int64)]
    return found

"""Metrics in bounded memory that add up over batches and ranks: for validation while training."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Scores are counted in bins of the logit: 24 / 16,384 = 0.0015 wide.
BINS = 1 << 14
LOGIT_RANGE = 12.0


class StreamingMetrics:
    """AUC, log loss, NE and PCOC of every (surface, task), from sums and score histograms.

    Where a log kept a share of its negatives, each of them counts as many as it stands for.

    The sums are exact. AUC counts scores that fall in one bin as ties; `recsys evaluate` reports
    the exact one. All state is one tensor, so that ranks add up by one all-reduce.
    """

    def __init__(
        self,
        surfaces: Sequence[str],
        tasks: Sequence[str],
        exists: Tensor,
        device: torch.device,
        log_rates: Tensor | None = None,
    ) -> None:
        self.surfaces = tuple(surfaces)
        self.tasks = tuple(tasks)
        self.exists = exists  # [S, T], which surface has which task
        # [S, T], log of the share of the negatives that a log kept; None: all of them.
        self.log_rates = log_rates
        cells = len(self.surfaces) * len(self.tasks)
        # Per cell: the histogram of negatives, that of positives, Σ BCE, Σ p, rows.
        self.state = torch.zeros(cells, 2 * BINS + 3, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, labels: Tensor, surface_index: Tensor) -> None:
        """Counts rows: `logits [N, T]`, `labels [N, T]` (NaN = unknown), `surface_index [N]`."""
        known = ~labels.isnan() & self.exists[surface_index]
        row, task = known.nonzero(as_tuple=True)
        z, y = logits[row, task].double(), labels[row, task].double()
        cell = surface_index[row] * len(self.tasks) + task
        scaled = (z + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))
        score = scaled.long().clamp(0, BINS - 1)
        flat = self.state.view(-1)
        start = cell * self.state.shape[1]
        weight = torch.ones_like(y)
        if self.log_rates is not None:
            stands_for = (-self.log_rates[surface_index[row], task]).exp()
            weight = torch.where(y == 0, stands_for, weight)
        # A label between 0 and 1 counts as both, by its share.
        flat.index_add_(0, start + score, weight * (1 - y))
        flat.index_add_(0, start + BINS + score, weight * y)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        flat.index_add_(0, start + 2 * BINS, weight * bce)
        flat.index_add_(0, start + 2 * BINS + 1, weight * z.sigmoid())
        flat.index_add_(0, start + 2 * BINS + 2, torch.ones_like(y))

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Adds up the ranks' counts; `total` sums a tensor over ranks in place."""
        total(self.state)

    def compute(self) -> dict[str, Any]:
        """`{"surfaces": {S: {"tasks": {T: metrics}}}, "all": {"tasks": {T: metrics}}}`."""
        state = self.state.view(len(self.surfaces), len(self.tasks), -1)
        return {
            "surfaces": {
                surface: {
                    "tasks": {
                        task: _metrics(state[s, t])
                        for t, task in enumerate(self.tasks)
                        if self.exists[s, t]
                    }
                }
                for s, surface in enumerate(self.surfaces)
            },
            "all": {
                "tasks": {task: _metrics(state[:, t].sum(0)) for t, task in enumerate(self.tasks)}
            },
        }


def _metrics(state: Tensor) -> dict[str, float | int | None]:
    negatives, positives = state[:BINS], state[BINS : 2 * BINS]
    bce, predicted, counted = (float(x) for x in state[2 * BINS :])
    n, p = float(negatives.sum()), float(positives.sum())
    rows = n + p  # by their weights
    auc = ne = None
    if n and p:
        below = negatives.cumsum(0) - negatives
        auc = float((positives * (below + negatives / 2)).sum()) / (n * p)
        rate = torch.tensor(p / rows, dtype=torch.float64)
        entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
        ne = bce / rows / float(entropy)
    return {
        "rows": round(counted),
        "positives": p if p % 1 else int(p),
        "auc": auc,
        "logloss": bce / rows if rows else None,
        "ne": ne,
        "pcoc": predicted / p if p else None,
    }

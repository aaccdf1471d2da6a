"""The loss of each (surface, task) and their weighted sum."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.config import Config
from recsys.model.unified import Logits


@dataclass(frozen=True)
class Losses:
    """The losses of one step on this rank."""

    total: Tensor  # [], to be minimised; its gradient averaged over ranks is the global one
    calibration: Tensor | None  # [], the same for the calibrators; None without any
    sums: Tensor  # [S, T], detached: this rank's Σ BCE of each cell
    counts: Tensor  # [S, T], this rank's known labels of each cell

    @property
    def objective(self) -> Tensor:
        """What is minimised. The two parts share no parameter."""
        return self.total if self.calibration is None else self.total + self.calibration


class CellLoss:
    """`L = Σ_s α_s Σ_t w_st · (Σ BCE over known labels of the cell) / count`.

    The count is global, summed over ranks: averaging per-rank means would halve a surface that is
    present on one rank of two. With `training.loss: cell` it is the cell's own count, with `task`
    the count of the task over all surfaces.

    With `training.balance.kind: uncertainty` a label's BCE is `exp(−v_st) BCE + v_st / 2`, v the
    learned log variances (Kendall et al. 2018, arXiv:1705.07115, the form for classification). They
    go to log(2 × the cell's mean BCE), so that all cells come to weigh α_s w_st times ½.

    Calibrators have a loss of their own, `Σ_s Σ_t (Σ BCE of the calibrated logits) / count`: no
    weights, and always the count of what the calibrator is for – a cell, or with `kind: global` a
    task.
    """

    def __init__(self, config: Config, device: torch.device, world: int = 1) -> None:
        self.world = world
        self.per_task = config.training.loss == "task"
        self.calibration = config.model.calibration.kind
        self.weights = torch.zeros(len(config.active_surfaces), len(config.tasks), device=device)
        for s, surface in enumerate(config.active_surfaces.values()):
            for task, weight in surface.tasks.items():
                self.weights[s, config.tasks.index(task)] = surface.weight * weight
        # [S, T], which cells exist.
        self.exists = torch.zeros_like(self.weights, dtype=torch.bool)
        for s, surface in enumerate(config.active_surfaces.values()):
            for task in surface.tasks:
                self.exists[s, config.tasks.index(task)] = True

    def counts(self, labels: Tensor, surface_index: Tensor) -> Tensor:
        """Known labels of each cell on this rank, `[S, T]`."""
        known = (~labels.isnan()).to(self.weights.dtype)
        return torch.zeros_like(self.weights).index_add(0, surface_index, known) * self.exists

    def __call__(
        self, logits: Logits, labels: Tensor, surface_index: Tensor, global_counts: Tensor
    ) -> Losses:
        """The losses of this rank's rows.

        Args:
            logits: of N candidates.
            labels: `[N, T]`, NaN where unknown.
            surface_index: `[N]`.
            global_counts: `[S, T]`, `counts` summed over ranks.
        """
        known = ~labels.isnan() & self.exists[surface_index]
        sums = self._sums(logits.raw, labels, known, surface_index)
        counts = torch.zeros_like(self.weights).index_add(
            0, surface_index, known.to(self.weights.dtype)
        )
        of_task = global_counts.sum(0, keepdim=True).clamp(min=1)
        of_cell = global_counts.clamp(min=1)
        balanced = sums
        if (v := logits.log_variances) is not None:
            balanced = (-v).exp() * sums + v / 2 * counts
        # DDP and torchrec average gradients over ranks; the sum over ranks is wanted.
        total = (
            self.weights * balanced / (of_task if self.per_task else of_cell)
        ).sum() * self.world
        calibration = None
        if self.calibration != "none":
            calibrated = self._sums(logits.calibrated.float(), labels, known, surface_index)
            divisor = of_task if self.calibration == "global" else of_cell
            calibration = (calibrated / divisor).sum() * self.world
        return Losses(total, calibration, sums.detach(), counts)

    def _sums(self, logits: Tensor, labels: Tensor, known: Tensor, surface_index: Tensor) -> Tensor:
        """Σ BCE of each cell, `[S, T]`."""
        target = torch.where(known, labels, 0.0)
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        # `where`, not a product: an infinite loss of an unknown label must not turn into NaN.
        bce = torch.where(known, bce, 0.0)
        return torch.zeros_like(self.weights).index_add(0, surface_index, bce)


def describe_fault(
    config: Config, logits: Tensor, labels: Tensor, surface_index: Tensor, sums: Tensor
) -> str:
    """Where a NaN or infinite loss comes from: surface, task and first row of the batch."""
    bad = (~sums.isfinite()).nonzero()
    if not len(bad):
        return "the weighted sum of all cells"
    s, t = (int(i) for i in bad[0])
    names: Sequence[str] = list(config.active_surfaces)
    rows = ((surface_index == s) & ~logits[:, t].isfinite()).nonzero()
    row = int(rows[0]) if len(rows) else -1
    value = f", logit {float(logits[row, t])}, label {float(labels[row, t])}" if row >= 0 else ""
    return f"surface {names[s]}, task {config.tasks[t]}, row {row} of the batch{value}"

"""Fits a calibrator to scored rows: full batch, convex, to the optimum."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.model.calibration import SPREAD, Calibrator

STEPS = 500


def why_not(labels: Tensor) -> str | None:
    """Why known labels `[n]` cannot tell a calibrator anything; None if they can."""
    if not len(labels):
        return "no row with a known label"
    if bool((labels == labels[0]).all()) and float(labels[0]) in (0.0, 1.0):
        return f"all {len(labels):,} labels are {int(labels[0])}"
    return None


def refit(
    calibrator: Calibrator,
    logits: Tensor,
    labels: Tensor,
    towards: Calibrator | None = None,
    spread: float = SPREAD,
) -> None:
    """Minimises `Σ BCE + penalty` in place, from where the calibrator is.

    Without `towards`, the penalty is a prior of the slopes around the identity,
    `Calibrator.penalty`, worth a few rows. It decides where rows say little: a cell with five
    positives, a bucket without any, labels that a threshold separates. The bias has none, so that
    at the optimum Σ p = Σ y: PCOC is 1 on these rows.

    With `towards`, fitted to the rows of all surfaces, slopes and bias have a prior around its,
    `Calibrator.distance`: a surface of few rows is near it, one of many goes its own way. (Partial
    pooling; Gelman & Hill, "Data Analysis Using Regression and Multilevel Models", 2007, ch. 12.)
    PCOC is then between its and 1.

    Args:
        calibrator: of one task.
        logits: `[n]`, before calibration.
        labels: `[n]`, all known, of both classes unless `towards` is given.
        towards: of the same kind and task; None: the surface by itself.
        spread: how far surfaces lie apart, in logits; see `Calibrator.distance`.
    """
    if len(calibrator.tasks) != 1:
        raise ValueError(f"one task at a time, not {calibrator.tasks}")
    kept = {name: each.dtype for name, each in calibrator.named_parameters()}
    calibrator.double()
    around = None if towards is None else copy.deepcopy(towards).double().requires_grad_(False)
    z, y = logits.detach().double().unsqueeze(1), labels.double()
    optimizer = torch.optim.LBFGS(
        calibrator.parameters(),
        max_iter=STEPS,
        history_size=20,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = calibrator(z, calibrator.tasks).squeeze(1)
        bce = F.binary_cross_entropy_with_logits(found, y, reduction="sum")
        prior = calibrator.penalty() if around is None else calibrator.distance(around, spread)
        objective = (bce + prior.sum()) / len(y)
        objective.backward()
        return objective

    optimizer.step(closure)  # type: ignore[arg-type]
    optimizer.zero_grad()
    for name, parameter in calibrator.named_parameters():
        parameter.data = parameter.data.to(kept[name])

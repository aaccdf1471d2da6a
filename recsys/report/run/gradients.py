"""Whether surfaces and tasks pull the shared trunk the same way, and how hard each pulls.

The gradient of a cell (surface, task) is that of its mean loss with respect to the trunk's dense
weights, on a sample of training rows, without dropout. The cosine of two of them says whether a
step for one helps the other. A sample is noisy: the same cell on two halves of its rows has a
cosine below 1 too, which tells how far the others can be trusted.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.config import Config
from recsys.model.unified import UnifiedModel
from recsys.report.run.sample import Sample

Cell = tuple[str, str]


def cell_gradients(model: UnifiedModel, sample: Sample) -> dict[Cell, Tensor]:
    """Cell → `[2, P]`, the gradient of its mean loss on each half of its sample.

    A half without a known label is NaN.
    """
    weights = [each for each in model.trunk.parameters() if each.requires_grad]
    size = sum(each.numel() for each in weights)
    sums: dict[Cell, Tensor] = {}
    counts: dict[Cell, Tensor] = {}
    config = sample.layout.config
    for surface, batches in sample.parts.items():
        view = model.for_surface(surface)
        for number, batch in enumerate(batches):
            logits = view(batch).raw
            known = ~batch.labels.isnan()
            tasks = list(config.surfaces[surface].tasks)
            for task in tasks:
                t = sample.layout.tasks.index(task)
                rows = known[:, t]
                if not rows.any():
                    continue
                loss = F.binary_cross_entropy_with_logits(
                    logits[rows, t], batch.labels[rows, t], reduction="sum"
                )
                last = task == tasks[-1]
                found = torch.autograd.grad(loss, weights, retain_graph=not last, allow_unused=True)
                flat = torch.cat(
                    [
                        (torch.zeros_like(w) if g is None else g).flatten()
                        for w, g in zip(weights, found, strict=True)
                    ]
                )
                cell = (surface, task)
                sums.setdefault(cell, torch.zeros(2, size))[number % 2] += flat
                counts.setdefault(cell, torch.zeros(2))[number % 2] += int(rows.sum())
    return {cell: sums[cell] / counts[cell].unsqueeze(1) for cell in sums}


def cell_weights(
    config: Config, labels: dict[Cell, int], log_variances: Tensor | None = None
) -> dict[Cell, float]:
    """What a cell's mean loss weighs in the run's loss: α_s w_st, times its share of the task's
    labels where `training.loss` is `task`. `labels` are the known ones of the train split, of which
    an epoch takes the share `request_sampling`. With the log variances `[S, T]` that a run learned,
    times exp(−v)."""
    found = {}
    seen = {
        (surface, task): count * config.surfaces[surface].request_sampling
        for (surface, task), count in labels.items()
    }
    for s, (surface, each) in enumerate(config.active_surfaces.items()):
        for task, weight in each.tasks.items():
            share = 1.0
            if config.training.loss == "task":
                of_task = sum(n for (_, other), n in seen.items() if other == task)
                share = seen.get((surface, task), 0) / of_task if of_task else 0.0
            learned = 1.0
            if log_variances is not None:
                learned = math.exp(-float(log_variances[s, config.tasks.index(task)]))
            found[surface, task] = each.weight * weight * share * learned
    return found


def conflict(gradients: dict[Cell, Tensor], weights: dict[Cell, float]) -> dict[str, Any]:
    """Cosines `{"names", "cosine": [[…]]}` between surfaces, tasks and cells; the diagonal is that
    of two halves of one sample. Surfaces and tasks sum their cells by the weights of the loss.

    `norms` has each cell's weight × ‖gradient‖ as a share of their sum.
    """
    cells = list(gradients)
    known = {cell: _joined(gradients[cell]) for cell in cells}
    pull = {cell: weights[cell] * float(known[cell].norm()) for cell in cells}
    total = sum(pull.values())
    surfaces, tasks = ([*dict.fromkeys(cell[i] for cell in cells)] for i in (0, 1))
    sums = [
        [sum(weights[c] * _filled(gradients[c]) for c in cells if c[i] == name) for name in names]
        for i, names in enumerate((surfaces, tasks))
    ]
    return {
        "surfaces": {"names": surfaces, "cosine": cosines(sums[0])},
        "tasks": {"names": tasks, "cosine": cosines(sums[1])},
        "cells": {
            "names": [list(cell) for cell in cells],
            "cosine": cosines([gradients[cell] for cell in cells]),
        },
        "norms": [
            {"surface": s, "task": t, "share": pull[s, t] / total if total else None}
            for s, t in cells
        ],
    }


def cosines(gradients: list[Any]) -> list[list[float | None]]:
    """Of gradients `[2, P]`: between the means of two; on the diagonal between halves of one."""
    means = F.normalize(torch.stack([_joined(each) for each in gradients]), dim=1)
    products = means @ means.T
    found = [[_value(x) for x in row] for row in products.tolist()]
    for i, (one, other) in enumerate(gradients):
        found[i][i] = _value(float(F.cosine_similarity(one, other, dim=0)))
    return found


def _filled(halves: Tensor) -> Tensor:
    """A half without labels is taken to be like the other one."""
    return torch.where(halves.isnan(), halves.nanmean(dim=0), halves)


def _joined(halves: Tensor) -> Tensor:
    return halves.nanmean(dim=0)


def _value(cosine: float) -> float | None:
    """0 is the cosine with a gradient of length 0, which has none."""
    return cosine if math.isfinite(cosine) and cosine != 0 else None

"""What the best possible model would score, from the true probabilities, in bounded memory."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.data.recipes.simulate.world import TASKS, Floats, Ints

_BINS = 2_048
_LOGIT_LIMIT = 9.0


class BestReachable:
    """AUC, NE and PCOC of the true probability, per split, surface and task.

    The labels are draws from the true probability, so no model can do better than this but by
    chance. NE is the mean cross entropy over the entropy of the base rate of the same rows. AUC
    comes from a histogram of the logit with bins of .009; ties within a bin count half.
    """

    def __init__(self, splits: tuple[str, ...], surfaces: tuple[str, ...]) -> None:
        self._splits, self._surfaces = splits, surfaces
        shape = (len(splits), len(surfaces), len(TASKS))
        self._histogram = np.zeros((*shape, 2, _BINS), dtype=np.int64)
        self._entropy = np.zeros(shape)
        self._predicted = np.zeros(shape)

    def add(self, split: int, surface: Ints, task: int, p: Floats, label: Ints) -> None:
        """Adds candidates of one split; `surface`, `p` and `label` have one entry a candidate."""
        logit = np.log(p / (1 - p))
        place = (logit + _LOGIT_LIMIT) / (2 * _LOGIT_LIMIT) * _BINS
        place = np.clip(place.astype(np.int64), 0, _BINS - 1)
        count = len(self._surfaces)
        cell = (surface * 2 + label) * _BINS + place
        self._histogram[split, :, task] += np.bincount(cell, minlength=count * 2 * _BINS).reshape(
            count, 2, _BINS
        )
        loss = -np.where(label == 1, np.log(p), np.log1p(-p))
        self._entropy[split, :, task] += np.bincount(surface, loss, count)
        self._predicted[split, :, task] += np.bincount(surface, p, count)

    def report(self) -> dict[str, Any]:
        """`{split: {"surfaces": {surface: {task: metrics}}, "all": {task: metrics}}}`.

        A metric that has no value, for want of positives or negatives, is None.
        """
        document: dict[str, Any] = {}
        for i, split in enumerate(self._splits):
            surfaces = {}
            for j, surface in enumerate(self._surfaces):
                cells = {
                    task: self._cell(
                        self._histogram[i, j, k], self._entropy[i, j, k], self._predicted[i, j, k]
                    )
                    for k, task in enumerate(TASKS)
                    if self._histogram[i, j, k].any()
                }
                surfaces[surface] = cells
            together = {
                task: self._cell(
                    self._histogram[i, :, k].sum(axis=0),
                    self._entropy[i, :, k].sum(),
                    self._predicted[i, :, k].sum(),
                )
                for k, task in enumerate(TASKS)
                if self._histogram[i, :, k].any()
            }
            document[split] = {"surfaces": surfaces, "all": together}
        return document

    @staticmethod
    def _cell(histogram: Ints, entropy: float, predicted: float) -> dict[str, Any]:
        negatives, positives = (int(n) for n in histogram.sum(axis=1))
        rows = positives + negatives
        auc = ne = pcoc = None
        if positives and negatives:
            below = np.cumsum(histogram[0]) - histogram[0] / 2
            auc = float((histogram[1] * below).sum() / (float(positives) * negatives))
            rate = positives / rows
            base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
            ne = float(entropy / rows / base)
        if positives:
            pcoc = float(predicted / positives)
        return {"rows": rows, "positives": positives, "auc": auc, "ne": ne, "pcoc": pcoc}


def print_best(summary: dict[str, Any], console: Console) -> None:
    """Prints the best reachable metrics of the test split of a `simulate` summary as a table."""
    test = summary["best_reachable"]["test"]
    table = Table(title="Best reachable on the test split")
    for name in ("surface", "task"):
        table.add_column(name)
    for name in ("rows", "base rate", "AUC", "NE", "PCOC"):
        table.add_column(name, justify="right")
    for surface, cells in {**test["surfaces"], "all": test["all"]}.items():
        for task, cell in cells.items():
            metrics = (cell["positives"] / cell["rows"], cell["auc"], cell["ne"], cell["pcoc"])
            shown = ["-" if value is None else f"{value:.4f}" for value in metrics]
            table.add_row(surface, task, f"{cell['rows']:,}", *shown)
    console.print(table)

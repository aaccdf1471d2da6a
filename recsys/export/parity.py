"""How far an exported program is from the model it was made of, on real rows."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.config import Config
from recsys.config.export import LimitsConfig
from recsys.data.batch import Batch
from recsys.data.schema import check_split, projection
from recsys.data.splits import Split
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.evaluation.metrics import auc, normalized_entropy, pcoc, weights
from recsys.export.rows import labelled_batches
from recsys.export.signature import Signature
from recsys.model.unified import UnifiedModel

log = logging.getLogger(__name__)

# Probabilities of each task, [N], of a batch.
Score: TypeAlias = Callable[[Batch], Mapping[str, NDArray[np.float64]]]


def score_of_view(view: UnifiedModel) -> Score:
    """The probabilities of a model that has one surface."""

    @torch.inference_mode()
    def score(batch: Batch) -> dict[str, NDArray[np.float64]]:
        probability = view(batch).probabilities().numpy()
        return {task: probability[:, t] for t, task in enumerate(view.layout.tasks)}

    return score


def score_of_program(program: Callable[..., Any], signature: Signature) -> Score:
    """The probabilities of an exported program."""

    @torch.inference_mode()
    def score(batch: Batch) -> dict[str, NDArray[np.float64]]:
        outputs = program(**signature.tensors(batch))
        return {task: outputs[task].numpy() for task in signature.layout.tasks}

    return score


@dataclass(frozen=True)
class Joint:
    """The joint model that a view was cut from, on ordinary tensors, and the run's statistics."""

    model: UnifiedModel
    statistics: Statistics

    def reads(self, rows: Split) -> bool:
        """Whether a table has all that it reads: that of one surface may lack the others' own."""
        layout = self.model.layout
        try:
            check_split(rows, projection(layout, rows, predictions=False, labels=False))
        except UserError as error:
            log.warning("not compared with the joint model, which reads more: %s", error)
            return False
        return True

    def score(self, rows: Split, tasks: Sequence[str], candidates: int) -> Score:
        """The probabilities of the rows that it is asked for, which must be the first of
        `labelled_batches`: read again, in the layout of all surfaces."""
        layout = self.model.layout
        batches = labelled_batches(layout.config, self.statistics, rows, candidates, labels=False)

        @torch.inference_mode()
        def score(batch: Batch) -> dict[str, NDArray[np.float64]]:
            own = next(batches)
            assert own.candidate_lengths.equal(batch.candidate_lengths)
            probability = self.model(own).probabilities().numpy()
            return {task: probability[:, layout.tasks.index(task)] for task in tasks}

        return score


class Compared:
    """The scores of a reference and of something else on the same labelled rows of one surface.

    Args:
        config: of the surface's view.
        batches: its rows.
        scores: what is compared.
    """

    def __init__(self, config: Config, batches: Iterable[Batch], *scores: Score) -> None:
        self.tasks = config.tasks
        [surface] = config.surfaces.values()
        self.rates = surface.negative_sampling
        self.requests = 0
        parts: list[list[Mapping[str, NDArray[np.float64]]]] = [[] for _ in scores]
        labels = []
        for batch in batches:
            for part, score in zip(parts, scores, strict=True):
                part.append(score(batch))
            labels.append(batch.labels.numpy())
            self.requests += batch.requests
        if not labels:
            raise UserError("no candidate among the rows to compare on; give rows of this surface")
        self.labels = np.concatenate(labels)  # [N, T], NaN where unknown
        self.probabilities = [
            {task: np.concatenate([each[task] for each in part]) for task in self.tasks}
            for part in parts
        ]

    @property
    def candidates(self) -> int:
        return len(self.labels)

    def metrics(self, which: int) -> dict[str, dict[str, float | int | None]]:
        """Of each task: rows with a label, AUC, NE, PCOC of scores number `which`."""
        found = {}
        for t, task in enumerate(self.tasks):
            p, y = self.probabilities[which][task], self.labels[:, t]
            w = weights(y, self.rates[task]) if task in self.rates else None
            found[task] = {
                "rows": int(np.count_nonzero(~np.isnan(y))),
                "auc": auc(p, y, w),
                "ne": normalized_entropy(p, y, w),
                "pcoc": pcoc(p, y, w),
            }
        return found

    def differences(self, reference: int = 0, other: int = 1) -> dict[str, Any]:
        """Of the second scores from the first, or of any two; per task; null where a metric has no
        value.

        `probability` is the largest absolute difference, `auc` the difference, `ne` the relative
        one; worse is a negative `auc` and a positive `ne`.
        """
        first, second = self.metrics(reference), self.metrics(other)
        found: dict[str, Any] = {}
        for task in self.tasks:
            a, b = (self.probabilities[which][task] for which in (reference, other))
            found[task] = {
                "probability": float(np.abs(a - b).max()),
                "auc": _difference(first[task]["auc"], second[task]["auc"]),
                "ne": _difference(first[task]["ne"], second[task]["ne"], relative=True),
            }
        return found

    def document(self) -> dict[str, Any]:
        """For the manifest."""
        sizes = {"requests": self.requests, "candidates": self.candidates}
        return {**sizes, "tasks": self.differences()}


def _difference(a: float | None, b: float | None, relative: bool = False) -> float | None:
    if a is None or b is None:
        return None
    return (b - a) / a if relative else b - a


def check_limits(
    parity: Mapping[str, Any], limits: LimitsConfig, exact: bool, surface: str
) -> None:
    """Raises `UserError` for the first task past a limit. `exact`: all tables are fp32."""
    for task, found in parity["tasks"].items():
        measured = {
            "probability": found["probability"] if exact else 0.0,
            "auc": abs(found["auc"] or 0.0),
            "ne": abs(found["ne"] or 0.0),
        }
        for name, value in measured.items():
            limit = getattr(limits, name)
            if not value <= limit:
                fix = "choose finer embeddings, " if not exact else ""
                raise UserError(
                    f"export.limits.{name}: surface {surface}, task {task} is off by {value:.3g}, "
                    f"more than {limit:g}, on {parity['candidates']:,} candidates; {fix}"
                    "or raise the limit. Nothing was written"
                )


def latency(score: Score, requests: Sequence[Batch], repeats: int = 3) -> dict[str, Any] | None:
    """Milliseconds for one request at a time in this process, encoding left out."""
    if not requests:
        return None
    seconds = []
    for batch in requests[:5]:
        score(batch)
    for _ in range(repeats):
        for batch in requests:
            start = time.perf_counter()
            score(batch)
            seconds.append(time.perf_counter() - start)
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    return {
        "requests": len(requests),
        "mean_candidates": sum(batch.candidates for batch in requests) / len(requests),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "threads": torch.get_num_threads(),
    }

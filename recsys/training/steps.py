"""The steps of an epoch: one after the other, or through TorchRec's sparse pipeline."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineSparseDist,
)

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.errors import UserError
from recsys.sharding.document import PlanDocument
from recsys.training.ranks import Ranks
from recsys.training.step import Lockstep, Stepper, StepResult, StepTotals

log = logging.getLogger(__name__)

# → the number of the next step, from 0, and the share of training that is done.
Schedule = Callable[[], tuple[int, float]]
Step = tuple[Batch, StepTotals, StepResult]
Steps = Callable[[Stepper, "Agreement", Schedule, Ranks], Iterator[Step]]


PIPELINES = {"sparse": TrainPipelineSparseDist, "prefetch": PrefetchTrainPipelineSparseDist}


def choose_steps(config: Config, plan: PlanDocument, ranks: Ranks) -> Steps:
    """How steps are run, by `training.pipeline`, the device and the plan.

    Raises `UserError` where TorchRec aborts: on CPU there are no caches to fill, and only one rank
    can be pipelined.
    """
    name: str = config.training.pipeline
    if name == "auto":
        cached = any(t.compute_kernel == "fused_uvm_caching" for t in plan.tables.values())
        on_gpu = "prefetch" if cached else "sparse"
        name = on_gpu if ranks.device.type == "cuda" else "none"
    if name == "none":
        return plain_steps
    if ranks.device.type == "cpu" and (name == "prefetch" or ranks.world > 1):
        where = "a CPU" if name == "prefetch" else "several CPU ranks"
        raise UserError(f"training.pipeline: {name} is impossible on {where}; use auto or none")
    return partial(pipelined_steps, PIPELINES[name])


class Agreement:
    """Batches on the host with what the ranks agreed on, until they agree to end.

    They end when no rank has rows left; after a batch at which some rank was asked to `stop`; or
    before one at which some rank has a `fault`.
    """

    def __init__(
        self,
        stepper: Stepper,
        batches: Lockstep,
        stop: Callable[[], bool],
        fault: Callable[[], bool],
    ) -> None:
        self.stopped = self.faulted = False
        self._stepper = stepper
        self._batches = batches
        self._stop = stop
        self._fault = fault

    def __iter__(self) -> Iterator[tuple[Batch, StepTotals]]:
        for batch in self._batches:
            fault = self._batches.fault is not None or self._fault()
            totals = self._stepper.totals(batch, self._stop(), fault)
            self.faulted = totals.fault
            if totals.fault or totals.requests == 0:
                return
            self.stopped = totals.stop
            yield batch, totals
            if totals.stop:
                return


def plain_steps(
    stepper: Stepper, agreement: Agreement, schedule: Schedule, ranks: Ranks
) -> Iterator[Step]:
    """Each batch is copied to the device, looked up and trained on before the next one."""
    for batch, totals in agreement:
        result = stepper.step(batch.to(ranks.device, non_blocking=True), totals, *schedule())
        yield batch, totals, result


def pipelined_steps(
    kind: type[TrainPipelineSparseDist[Batch, Any]],
    stepper: Stepper,
    agreement: Agreement,
    schedule: Schedule,
    ranks: Ranks,
) -> Iterator[Step]:
    """Through a pipeline of TorchRec's: while one batch is trained on, the ids of the next go to
    the ranks that hold their rows, and the one after is copied to the device. The one that
    prefetches also brings the next batch's rows into the caches.

    Ranks agree on a batch when it is read, so that an end is two steps away when it is agreed on.
    """
    waiting: deque[tuple[Batch, StepTotals]] = deque()

    def read() -> Iterator[Batch]:
        for batch, totals in agreement:
            waiting.append((batch, totals))
            yield batch

    def forward(batch: Batch) -> tuple[torch.Tensor, Any]:
        losses = stepper.forward(batch, waiting[0][1], *schedule())
        return losses.objective.view(1), losses

    optimizer = _Dense(stepper, schedule)
    pipeline = kind(stepper.model, optimizer, ranks.device, custom_model_fwd=forward)
    batches, first = read(), True
    try:
        while True:
            try:
                losses = pipeline.progress(batches)
            except StopIteration:
                return
            if first:
                first = False
                log_pipelined(pipeline, stepper, ranks)
            batch, totals = waiting.popleft()
            yield batch, totals, stepper.result(losses, optimizer.norm)
    finally:
        # The pipeline put forwards of its own into the collections; validation needs theirs.
        pipeline.detach()


class _Dense(torch.optim.Optimizer):
    """The dense optimizer as the pipeline calls it."""

    def __init__(self, stepper: Stepper, schedule: Schedule) -> None:
        self.norm: torch.Tensor | None = None
        self._stepper, self._schedule = stepper, schedule

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Gradients are cleared by `step`."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.norm = self._stepper.dense.step(*self._schedule())


def log_pipelined(pipeline: Any, stepper: Stepper, ranks: Ranks) -> None:
    """Says how many collections the pipeline found; one that it missed is looked up unpipelined."""
    found = len(pipeline._pipelined_modules)
    collections = len(stepper.layout.collections)
    if ranks.first:
        name = type(pipeline).__name__
        level = logging.INFO if found == collections else logging.WARNING
        log.log(level, "%s: %d of %d collections are pipelined", name, found, collections)

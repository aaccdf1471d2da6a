"""One training step on all ranks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.layout import Layout
from recsys.errors import RunError, UserError
from recsys.training.loss import CellLoss, Losses, describe_fault
from recsys.training.optimizers import DenseOptimizer, SparseRate
from recsys.training.ranks import Ranks


def precision(config: Config, device: torch.device) -> AbstractContextManager[None]:
    """The context of a forward pass under `training.precision`."""
    torch.backends.cuda.matmul.allow_tf32 = config.training.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.training.precision == "tf32"
    if config.training.precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)  # type: ignore[return-value]
    return nullcontext()


@dataclass(frozen=True)
class StepTotals:
    """What all ranks did in one step."""

    requests: int  # with those that sampling left out
    candidates: int
    stop: bool  # whether some rank was asked to stop
    fault: bool  # whether some rank cannot go on
    label_counts: Tensor  # [S, T]


@dataclass(frozen=True)
class StepResult:
    """The losses of one step, summed over ranks where that costs nothing extra."""

    loss: Tensor  # [], this rank's share of the weighted loss
    sums: Tensor  # [S, T], Σ BCE of this rank
    counts: Tensor  # [S, T], known labels of this rank
    gradient_norm: Tensor | None


class Stepper:
    """Runs steps: the forward pass, the loss, the backward pass, both optimizers."""

    def __init__(
        self,
        model: DistributedModelParallel,
        dense: DenseOptimizer,
        sparse: SparseRate,
        config: Config,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.dense = dense
        self.sparse = sparse
        self.config = config
        self.ranks = ranks
        self.layout = Layout(config)
        self.loss = CellLoss(config, ranks.device, ranks.world)
        # Ranks agree on the host, before a batch is copied to the device: nothing waits for it.
        self._host_loss = CellLoss(config, torch.device("cpu"), ranks.world)
        # Whether all losses since `check_finite` were finite; on a GPU nobody looks at each step.
        self._finite = torch.ones((), dtype=torch.bool, device=ranks.device)

    def totals(self, batch: Batch, stop: bool, fault: bool = False) -> StepTotals:
        """Agrees with the other ranks on the step: one small all-reduce on the host.

        The label counts are needed before the loss; whether anyone has rows left, was asked to
        stop or cannot go on must be one decision.
        """
        counts = self._host_loss.counts(batch.labels, batch.surface_index)
        if self.ranks.world == 1:
            return StepTotals(batch.passed, batch.candidates, stop, fault, counts)
        own = torch.tensor(
            [batch.passed, batch.candidates, stop, fault],
            dtype=torch.float64,
            device=counts.device,
        )
        summed = self.ranks.sum(torch.cat([own, counts.flatten().double()]))
        requests, candidates, stops, faults = (int(x) for x in summed[:4].tolist())
        global_counts = summed[4:].view_as(counts).to(counts.dtype)
        return StepTotals(requests, candidates, stops > 0, faults > 0, global_counts)

    def step(self, batch: Batch, totals: StepTotals, number: int, progress: float) -> StepResult:
        """Trains on `batch`. `number` counts steps from 0, `progress` is the share of the run done.

        Raises `RunError` on a NaN or infinite loss, before any weight changes; on a GPU,
        `check_finite` does so later.
        """
        losses = self.forward(batch, totals, number, progress)
        losses.objective.backward()
        return self.result(losses, self.dense.step(number, progress))

    def forward(self, batch: Batch, totals: StepTotals, number: int, progress: float) -> Losses:
        """The losses of `batch`, which is on the device."""
        # Before the forward pass: that is where FBGEMM reads the rate which its backward pass uses.
        self.sparse.set(progress)
        with precision(self.config, self.ranks.device):
            logits = self.model(batch)
        counts = totals.label_counts.to(self.ranks.device, non_blocking=True)
        losses = self.loss(logits, batch.labels, batch.surface_index, counts)
        if self.ranks.device.type == "cuda":
            self._finite &= losses.objective.detach().isfinite()
        else:
            self._check_finite(losses, logits.raw.detach(), batch, number)
        return losses

    def result(self, losses: Losses, norm: Tensor | None) -> StepResult:
        return StepResult(losses.total.detach(), losses.sums, losses.counts, norm)

    def check_finite(self, number: int) -> None:
        """Raises `RunError` on all ranks if a loss since the last call was not finite (collective).

        Only for a GPU, where asking at each step would make the host wait for it.
        """
        if self.ranks.device.type != "cuda":
            return
        bad = self.ranks.sum((~self._finite).long())
        self._finite.fill_(True)
        if int(bad):
            raise RunError(
                f"step {number}: a loss since the last line of the log was NaN or infinite; go on "
                "with --resume under a lower training.dense.lr or training.sparse.lr, or look for "
                "extreme numbers in the data"
            )

    def _check_finite(self, losses: Losses, logits: Tensor, batch: Batch, number: int) -> None:
        """Raises the same `RunError` on all ranks if the loss of any is NaN or infinite."""
        # A sum over ranks is as finite as its parts, so that one small all-reduce tells them all.
        loss = self.ranks.sum(losses.objective.detach().clone())
        if bool(loss.isfinite()):
            return
        own = None
        if not bool(losses.objective.detach().isfinite()):
            own = describe_fault(
                self.config, logits, batch.labels, batch.surface_index, losses.sums
            )
            if self.ranks.world > 1:
                own += f" of rank {self.ranks.rank}"
        fault = next((each for each in self.ranks.gather(own) if each), "the sum over ranks")
        raise RunError(
            f"step {number + 1}: the loss is {float(loss)}: {fault}; lower training.dense.lr or "
            "training.sparse.lr, or look for extreme numbers in the data"
        )


class Lockstep:
    """This rank's batches on its device, then empty ones for as long as other ranks go on.

    A `UserError` of the reader ends this rank's batches and is kept in `fault`: the ranks must
    agree to stop, or the others would wait for this one.
    """

    def __init__(self, batches: Iterator[Batch], empty: Batch, device: torch.device) -> None:
        self.fault: str | None = None
        self._batches = batches
        self._empty = empty.to(device)
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in self._batches:
                yield batch.to(self._device, non_blocking=True)
        except UserError as error:
            self.fault = str(error)
        while True:
            yield self._empty

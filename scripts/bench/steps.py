"""Training steps – forward, loss, backward, both optimizers – on batches held in memory."""

from collections.abc import Callable
from types import MethodType

import torch
from torch import Tensor

from bench.timing import Seconds, Stopwatch
from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.model.unified import Logits, UnifiedModel
from recsys.training.optimizers import DenseOptimizer, SparseRate, dense_parameters
from recsys.training.ranks import Ranks
from recsys.training.sharded import build_sharded_model, unwrap
from recsys.training.step import Stepper


def read_batches(
    config: Config, most: int | None = None, statistics: Statistics | None = None
) -> list[Batch]:
    """The first batches of the train split, in the order of the files; full ones only."""
    found = []
    size = config.training.batch_candidates
    with Reader(config, "train", statistics, shuffle=False, batch_candidates=size) as reader:
        for batch in reader:
            if batch.candidates == size and (most is None or len(found) < most):
                found.append(batch)
    return found


class Training:
    """A model in training as `recsys train` has it, fed from memory.

    Args:
        config: the experiment.
        ranks: of one rank.
        batches: what `run` trains on.
        forward: raw logits `[N, T]`, in the place of the model's forward.
    """

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        batches: list[Batch],
        forward: Callable[[UnifiedModel, Batch], Tensor] | None = None,
    ) -> None:
        self.batches = batches
        self.sharded, _ = build_sharded_model(config, ranks)
        self.model = unwrap(self.sharded)
        if forward is not None:
            self.model.forward = MethodType(  # type: ignore[method-assign]
                lambda model, batch: uncalibrated(forward(model, batch)), self.model
            )
        self.stepper = Stepper(
            self.sharded,
            DenseOptimizer(dense_parameters(self.sharded), config.training.dense),
            SparseRate(self.sharded, config.training.sparse.lr, config.training.dense.decay),
            config,
            ranks,
        )
        self.steps = 0

    @property
    def rows(self) -> int:
        """Candidates of all batches."""
        return sum(batch.candidates for batch in self.batches)

    def run(self) -> Seconds:
        """Trains on every batch once."""
        with Stopwatch() as watch:
            for batch in self.batches:
                totals = self.stepper.totals(batch, stop=False)
                self.stepper.step(batch, totals, self.steps, 0.0)
                self.steps += 1
        return watch.seconds

    def same_weights(self, other: "Training") -> None:
        """Takes the weights of `other`, tables included."""
        mine = self.sharded.state_dict()
        with torch.no_grad():
            for name, value in other.sharded.state_dict().items():
                if hasattr(value, "local_shards"):
                    for to, of in zip(mine[name].local_shards(), value.local_shards(), strict=True):
                        to.tensor.copy_(of.tensor)
                else:
                    mine[name].copy_(value)


def uncalibrated(raw: Tensor) -> Logits:
    """What a model without calibrators makes of its logits `[N, T]`."""
    return Logits(raw, raw.detach().double(), raw.detach().double())


def largest_difference(first: Training, second: Training) -> float:
    """The largest difference of two models' logits over their batches."""
    with torch.no_grad():
        return max(
            float((first.model(a).raw - second.model(b).raw).abs().max())
            for a, b in zip(first.batches, second.batches, strict=True)
        )


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in `run`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()

"""Calibrators: from the logits of one surface's tasks to logits whose probabilities hold.

Each maps a logit z to g(z), strictly increasing, so that no ranking changes. They see logits that
are cut off from the rest of the model (stop-gradient) and have parameters of their own. All of it
is float64: two float32 logits that differ keep their order. They start as the identity.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.config.model import CalibrationConfig
from recsys.model.slices import pick

# The key of the one calibrator of `kind: global`, in place of a surface. Not `global`, a keyword of
# the code that torch.export writes.
EVERY_SURFACE = "every_surface"
LEAST_SLOPE = 1e-3
PRIOR_SD = 0.25  # of log a, where rows say nothing: measured in docs/howto/calibrate.md
SPREAD = 0.1  # of a surface's a and b around those of all surfaces: measured there too


class Calibrator(nn.Module, ABC):
    """The interface: g of several tasks at once.

    Args:
        tasks: in the order of the parameters' rows.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def forward(self, z: Tensor, tasks: Sequence[str]) -> Tensor:
        """Logits `[n, len(tasks)]` of some of its tasks → calibrated ones, float64."""
        rows = [] if tuple(tasks) == self.tasks else [self.tasks.index(task) for task in tasks]
        own: dict[str, Tensor] = dict(self.named_parameters())
        if rows:
            own = {name: pick(value, rows) for name, value in own.items()}
        return self.calibrated(z.double(), **{name: value.double() for name, value in own.items()})

    @abstractmethod
    def calibrated(self, z: Tensor, **parameters: Tensor) -> Tensor:
        """g of float64 logits `[n, T]`, the parameters' rows being those of the T tasks."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """Minus the log density of a prior of the slopes around the identity, `[T]`; see
        `recsys.training.refit`."""

    @abstractmethod
    def distance(self, other: "Calibrator", spread: float) -> Tensor:
        """Minus the log density of a prior of slopes and bias around those of `other`, `[T]`.

        Args:
            other: of the same kind and tasks; it gets no gradient.
            spread: standard deviation of the bias and of the mean log slope.
        """


class Platt(Calibrator):
    """`g(z) = a z + b`, a = exp(`log_slope`) > 0.

    Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.log_slope = nn.Parameter(torch.zeros(len(self.tasks)))
        self.bias = nn.Parameter(torch.zeros(len(self.tasks)))

    def calibrated(self, z: Tensor, log_slope: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        return z * log_slope.exp() + bias

    def penalty(self) -> Tensor:
        return (self.log_slope / PRIOR_SD).square() / 2

    def distance(self, other: Calibrator, spread: float) -> Tensor:
        assert isinstance(other, Platt)
        slope, bias = self.log_slope - other.log_slope, self.bias - other.bias
        return (slope.square() + bias.square()) / spread**2 / 2


class Isotonic(Calibrator):
    """Piecewise linear in the logit, `g(0) = b`, each slope at least 0.001.

    Knots divide [−limit, limit] into buckets of equal width; in bucket i the slope is
    `s_i = 0.001 + softplus(w_i)`. Beyond the knots the outermost slopes go on. LiRank (LinkedIn,
    2024) and arXiv:2603.06589 have such a layer, with slopes that may be zero; ours may not, so
    that ranking never changes.

    Args:
        tasks: of the surface.
        buckets: an even number, so that 0 is a knot.
        limit: the outermost knots are at −limit and at limit.
    """

    knots: Tensor

    def __init__(self, tasks: Sequence[str], buckets: int, limit: float) -> None:
        super().__init__(tasks)
        shape = len(self.tasks), buckets
        self.slopes = nn.Parameter(torch.full(shape, self.identity()))
        self.bias = nn.Parameter(torch.zeros(len(self.tasks)))
        knots = torch.linspace(-limit, limit, buckets + 1, dtype=torch.float64)
        self.register_buffer("knots", knots, persistent=False)

    @staticmethod
    def identity() -> float:
        """w for which the slope is 1."""
        return math.log(math.expm1(1 - LEAST_SLOPE))

    def calibrated(self, z: Tensor, slopes: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        slopes = LEAST_SLOPE + F.softplus(slopes)  # [T, B]
        zero = slopes.shape[1] // 2
        rises = F.pad((slopes * self.knots.diff()).cumsum(1), (1, 0))  # [T, B + 1]
        levels = bias.unsqueeze(1) + rises - rises[:, zero : zero + 1]  # g at the knots
        bucket = torch.bucketize(z.contiguous(), self.knots[1:-1])  # [n, T]
        # From the knot of the bucket that is nearer to 0: float64 then keeps the order across it.
        nearer = bucket + (bucket < zero).to(bucket.dtype)
        task = torch.arange(slopes.shape[0], device=z.device)
        return levels[task, nearer] + slopes[task, bucket] * (z - self.knots[nearer])

    def penalty(self) -> Tensor:
        """A standard normal prior of each w."""
        return (self.slopes - self.identity()).square().sum(1) / 2

    def distance(self, other: Calibrator, spread: float) -> Tensor:
        assert isinstance(other, Isotonic)
        # B independent slopes whose mean has the spread.
        slopes = (self.slopes - other.slopes).square().mean(1)
        return (slopes + (self.bias - other.bias).square()) / spread**2 / 2


def build_calibrator(config: CalibrationConfig, tasks: Sequence[str]) -> Calibrator | None:
    """The calibrator of one surface, or of all with `kind: global`; None for `kind: none`."""
    if config.kind == "none":
        return None
    if config.kind == "isotonic":
        return Isotonic(tasks, config.buckets, config.limit)
    return Platt(tasks)


def build_calibrators(
    config: CalibrationConfig, tasks_of: Mapping[str, Sequence[str]], tasks: Sequence[str]
) -> dict[str, Calibrator]:
    """Every calibrator of a model, by surface or under `EVERY_SURFACE`.

    Args:
        config: `model.calibration`.
        tasks_of: each surface's tasks.
        tasks: of all surfaces.
    """
    wanted: Mapping[str, Sequence[str]] = tasks_of
    if config.kind == "global":
        wanted = {EVERY_SURFACE: tasks}
    built = {name: build_calibrator(config, own) for name, own in wanted.items()}
    return {name: each for name, each in built.items() if each is not None}

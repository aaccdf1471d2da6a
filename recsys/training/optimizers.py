"""Row-wise Adagrad fused into the tables' backward pass, Adam for everything else."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from recsys.config.training import (
    BalanceConfig,
    CalibratorsConfig,
    DenseConfig,
    SparseConfig,
)


def fuse_sparse_optimizer(tables: Iterable[nn.Parameter], config: SparseConfig) -> None:
    """Registers row-wise Adagrad on table parameters; call before sharding.

    Row-wise Adagrad keeps one number a row: `m_r += mean(g_r²)`, `w_r −= lr · g_r / (√m_r + ε)`.
    """
    apply_optimizer_in_backward(
        RowWiseAdagrad,
        tables,
        {"lr": config.lr, "eps": config.eps, "weight_decay": config.weight_decay},
    )


# What the names of calibrators' parameters begin with.
CALIBRATORS = "calibrators."
BALANCE = "log_variances"


class DenseOptimizer:
    """AdamW with linear warm-up, optional decay and gradient clipping.

    Calibrators have a rate of their own and neither weight decay nor clipping: with them or without
    them, all other parameters take the same steps. So have the log variances of `training.balance`.

    A parameter without a gradient – a tower whose surface had no rows on any rank – is left alone
    bit for bit: no momentum step, no weight decay. Adam's state exists from the start, so that
    loading a checkpoint is a copy into it.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        config: DenseConfig,
        calibrators: CalibratorsConfig | None = None,
        balance: BalanceConfig | None = None,
    ) -> None:
        self.config = config
        self.calibrators = calibrators or CalibratorsConfig()
        self.parameters = parameters
        own = {
            CALIBRATORS: self.calibrators.lr,
            BALANCE: (balance or BalanceConfig()).lr,
        }
        self._network = [p for name, p in parameters.items() if not name.startswith(tuple(own))]
        groups = [{"params": self._network, "lr": config.lr}]
        self._own_rates = []  # of the groups after the first
        for prefix, lr in own.items():
            found = [p for name, p in parameters.items() if name.startswith(prefix)]
            if found:
                groups.append({"params": found, "lr": lr, "weight_decay": 0.0})
                self._own_rates.append(lr)
        self.adam = torch.optim.AdamW(
            groups,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        for parameter in parameters.values():
            self.adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step `step` (from 0) when a share `progress` of training is done."""
        rate = self.config.lr * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return rate * decay(self.config.decay, progress)

    def step(self, step: int, progress: float) -> Tensor | None:
        """Clips, updates, and clears the gradients. Returns the gradient's norm before clipping."""
        factor = decay(self.config.decay, progress)
        rates = [self.rate(step, progress), *(lr * factor for lr in self._own_rates)]
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate
        norm = None
        if self.config.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(
                self._network, self.config.clip_norm, foreach=True
            )
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """`NAME.exp_avg`, `.exp_avg_sq` and `.step` of every parameter; the tensors themselves."""
        return {
            f"{name}.{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.adam.state[parameter].items()
        }


def decay(kind: str, progress: float) -> float:
    """Factor on a learning rate when a share `progress` of training is done."""
    progress = min(1.0, max(0.0, progress))
    if kind == "linear":
        return 1.0 - progress
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0


def dense_parameters(model: DistributedModelParallel) -> dict[str, nn.Parameter]:
    """The parameters that no fused optimizer updates."""
    return dict(in_backward_optimizer_filter(model.named_parameters()))


def check_one_optimizer_each(
    model: DistributedModelParallel, dense: Mapping[str, nn.Parameter]
) -> None:
    """Raises if a table lost its fused optimizer, or a parameter is in two optimizers or in none.

    A rank checks the tables that it holds; of the others it has an empty parameter.
    """
    fused = set(model.fused_optimizer.params)
    for name, parameter in model.named_parameters():
        if name not in dense and not parameter.numel():
            continue
        if (name in fused) == (name in dense):
            found = "two optimizers" if name in dense else "no optimizer"
            raise RuntimeError(f"{name} is updated by {found}; is its plan data_parallel?")


class SparseRate:
    """Keeps the fused optimizers' learning rate on the schedule's decay."""

    def __init__(self, model: DistributedModelParallel, lr: float, kind: str) -> None:
        self.optimizer = model.fused_optimizer
        self.lr = lr
        self.kind = kind

    def set(self, progress: float) -> None:
        """Sets the rate for the next forward pass and its backward pass, when a share `progress` of
        training is done."""
        if self.kind == "none":
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * decay(self.kind, progress)
        # A fused optimizer's step hands the rate to the kernels; the update itself is in backward.
        self.optimizer.step()

"""Multi-gate mixture of experts (MMoE, Ma et al. 2018), and layers of them (PLE)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.model import ExpertsConfig


class Experts(nn.Module):
    """E experts over the same input: `f_e(x)`, each an MLP.

    The first layers of all experts are one matrix product, the later ones a batched product.
    """

    def __init__(
        self, in_features: int, count: int, hidden: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.count = count
        self.out_features = hidden[-1]
        self.first = nn.Linear(in_features, count * hidden[0])
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for narrow, wide in zip(hidden[1:], hidden[:-1], strict=True):
            bound = wide**-0.5  # nn.Linear's own initialisation
            self.weights.append(torch.empty(count, wide, narrow).uniform_(-bound, bound))
            self.biases.append(torch.empty(count, 1, narrow).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_features]` → `[N, E, out_features]`."""
        h = self.first(x).relu().unflatten(-1, (self.count, -1))
        h = self.dropout(h)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.baddbmm(bias.to(h.dtype), h.transpose(0, 1), weight.to(h.dtype))
            h = self.dropout(h.relu()).transpose(0, 1)
        return h


class Gate(nn.Module):
    """How much each task of one surface listens to each expert: `softmax(G_t x)` over experts."""

    def __init__(self, in_features: int, tasks: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.linear = nn.Linear(in_features, tasks * experts)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, in_features]` → `[n, T, E]`, sums of 1 over E."""
        return self.linear(x).unflatten(-1, (-1, self.experts)).softmax(dim=-1)


def mix(gate: Tensor, experts: Tensor) -> Tensor:
    """`h_t = Σ_e gate_te · f_e`: `[n, T, E]`, `[n, E, h]` → `[n, T, h]`, as a matrix product."""
    return torch.bmm(gate.to(experts.dtype), experts)


class ExpertLayer(nn.Module):
    """Experts on a mixture of those of the layer below: one half, shared or own, of a layer of PLE.

    `f_e(Σ_i g_i f'_i)`, f' all experts of the layer below, the shared ones and the surface's own, g
    a gate that looks at what the same half read there. Tang et al., "Progressive Layered
    Extraction" (2020); here the tasks that have own experts are surfaces, and a row meets those of
    its own surface alone.

    Args:
        in_features: width of what the same half read below.
        count: how many experts.
        config: `model.experts`.
    """

    def __init__(self, in_features: int, count: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.gate = Gate(in_features, 1, config.count + config.own)
        self.experts = Experts(config.hidden[-1], count, config.hidden, config.dropout)

    def forward(self, x: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """`x [n, in_features]`, `below [n, E, h]` → what it read `[n, h]`, `[n, count, h]`."""
        mixed = mix(self.gate(x), below).squeeze(1)
        return mixed, self.experts(mixed)


def expert_layers(in_features: int, count: int, config: ExpertsConfig) -> nn.ModuleList:
    """The layers after the first, of `count` experts each."""
    widths = [in_features] + [config.hidden[-1]] * (config.layers - 2)
    return nn.ModuleList(ExpertLayer(width, count, config) for width in widths[: config.layers - 1])

"""The layers of a tower that its surface's tasks share, and the variants of multi-domain peers.

All map `[n, T, in_features]` to `[n, T, widths[-1]]`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.model.gates import GateUnit


def linears(in_features: int, widths: Sequence[int]) -> nn.ModuleList:
    """The linear layers of a stem."""
    layers = []
    for width in widths:
        layers.append(nn.Linear(in_features, width))
        in_features = width
    return nn.ModuleList(layers)


class PersonalStem(nn.Module):
    """`h ← g(prior, h) ⊙ ReLU(W h + b)` for each layer: PPNet (arXiv:2302.01115).

    Args:
        in_features: width of the input.
        widths: of the layers.
        prior_features: width of what the gates look at besides h: embeddings of user and item.
    """

    def __init__(
        self, in_features: int, widths: Sequence[int], prior_features: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = linears(in_features, widths)
        self.gates = nn.ModuleList(
            GateUnit(prior_features + wide, narrow)
            for wide, narrow in zip([in_features, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, prior: Tensor) -> Tensor:
        """`prior [n, prior_features]`."""
        for layer, gate in zip(self.layers, self.gates, strict=True):
            h = self.dropout(gate(prior, h) * layer(h).relu())
        return h


class StarStem(nn.Module):
    """`h ← ReLU((W_shared ⊙ W) h + b_shared + b)` for each layer: the fully connected part of STAR
    (Sheng et al. 2021, arXiv:2101.11427).

    W starts at 1 and b at 0, so that all surfaces start with the shared layers. STAR's
    normalisation by domain and its auxiliary network are left out.
    """

    def __init__(self, in_features: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for width in widths:
            self.weights.append(torch.ones(width, in_features))
            self.biases.append(torch.zeros(width))
            in_features = width
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, shared: nn.ModuleList) -> Tensor:
        """`shared`: `linears` of the same widths."""
        for layer, weight, bias in zip(shared, self.weights, self.biases, strict=True):
            h = F.linear(h, layer.weight * weight, layer.bias + bias)
            h = self.dropout(h.relu())
        return h

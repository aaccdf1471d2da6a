"""Built-in `mlp`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.model.mlp import mlp


class MLP(nn.Module):
    """An MLP over the concatenated inputs: a surface's own features into its tower.

    Args:
        inputs: name → width.
        hidden: widths of the layers.
    """

    def __init__(self, inputs: Mapping[str, int], hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.layers = mlp(sum(inputs.values()), hidden)
        self.out_features = hidden[-1]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`{name: [n, width]}` → `[n, hidden[-1]]`."""
        return self.layers(torch.cat(list(inputs.values()), dim=1))

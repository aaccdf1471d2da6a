"""Built-in `low_rank_cross`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.model.crossing import Crossing


class LowRankCross(nn.Module):
    """DCNv2 crosses among the inputs, for example of a query with a candidate.

    Args:
        inputs: name → width.
        layers: number of cross layers.
        rank: of each layer's matrices.
    """

    def __init__(self, inputs: Mapping[str, int], layers: int = 1, rank: int = 16) -> None:
        super().__init__()
        self.out_features = sum(inputs.values())
        self.cross = Crossing(self.out_features, layers, rank)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`{name: [n, width]}` → `[n, sum of widths]`."""
        return self.cross(torch.cat(list(inputs.values()), dim=1))

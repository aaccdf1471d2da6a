"""Explicit feature crosses."""

from torch import Tensor, nn
from torchrec.modules.crossnet import LowRankCrossNet


class Crossing(nn.Module):
    """DCNv2, low rank (Wang et al. 2021): `x_{l+1} = x_0 ⊙ (W_l (V_l x_l) + b_l) + x_l`.

    The layers are torchrec's; a layer norm keeps the scale of x_0 as crosses multiply it.
    """

    def __init__(self, features: int, layers: int, rank: int) -> None:
        super().__init__()
        self.net = LowRankCrossNet(features, num_layers=layers, low_rank=rank)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, features]` → `[N, features]`."""
        return self.norm(self.net(x))

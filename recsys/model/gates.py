"""Gates by what is known beforehand (PEPNet, Chang et al. 2023, arXiv:2302.01115)."""

import torch
from torch import Tensor, nn


class GateUnit(nn.Module):
    """`2 σ(W₂ ReLU(W₁ [prior; sg(x)]))`, sg = no gradient: between 0 and 2 for each element.

    W₂ starts at zero and all gates at 1, so that adding one changes no prediction at step 0.

    Args:
        in_features: width of prior and x together.
        out_features: how many gates.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, out_features)
        self.out = nn.Linear(out_features, out_features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, prior: Tensor, x: Tensor) -> Tensor:
        """`prior [n, p]`, `x [n, …, f]` → `[n, …, out_features]`."""
        prior = prior.view(prior.shape[0], *[1] * (x.dim() - 2), prior.shape[1])
        both = torch.cat([prior.expand(*x.shape[:-1], -1), x.detach()], dim=-1)
        return 2 * self.out(self.hidden(both).relu()).sigmoid()

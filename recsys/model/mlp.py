"""A stack of linear layers."""

from collections.abc import Sequence

from torch import nn


def mlp(in_features: int, widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """`Linear → ReLU (→ Dropout)` for each of `widths`; the identity if there are none.

    Maps `[…, in_features]` to `[…, widths[-1]]`.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        in_features = width
    return nn.Sequential(*layers)

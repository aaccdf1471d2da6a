"""Embedding tables of an export: fp32, fp16, or 8 bits a number."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.config.export import Precision

LEVELS = 255  # of an int8 number


class Table(nn.Module):
    """Rows as they are: fp32 `[rows, dim]`, or fp16 if so given."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, rows: Tensor) -> Tensor:
        """`rows [L]` int64 → fp32 `[L, dim]`."""
        return F.embedding(rows, self.weight).float()


class Int8Table(nn.Module):
    """`row = scale · q + bias` with q of 8 bits, and scale and bias of 16: dim + 4 bytes a row.

    A row's bias is its smallest number and its scale a 255th of its range (FBGEMM's row-wise
    quantisation, here with fp16). The numbers are rounded against the rounded scale and bias.
    """

    quantised: Tensor  # [rows, dim] uint8
    scale_bias: Tensor  # [rows, 2] fp16

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        low, high = weight.amin(dim=1), weight.amax(dim=1)
        scale_bias = torch.stack([(high - low) / LEVELS, low], dim=1).half()
        scale, bias = scale_bias.float().unbind(1)
        # A row of equal numbers has no range: they all are the bias.
        steps = torch.where(scale > 0, 1.0 / scale, 0.0)
        steps = (weight - bias.unsqueeze(1)) * steps.unsqueeze(1)
        self.register_buffer("quantised", steps.round().clamp(0, LEVELS).to(torch.uint8))
        self.register_buffer("scale_bias", scale_bias)

    def forward(self, rows: Tensor) -> Tensor:
        """`rows [L]` int64 → fp32 `[L, dim]`."""
        scale_bias = F.embedding(rows, self.scale_bias).float()
        return F.embedding(rows, self.quantised).float() * scale_bias[:, :1] + scale_bias[:, 1:]


def stored(weight: Tensor, precision: Precision) -> nn.Module:
    """A table of fp32 weights `[rows, dim]` as it is exported."""
    if precision == "int8":
        return Int8Table(weight)
    return Table(weight.half() if precision == "fp16" else weight)

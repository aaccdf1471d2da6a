"""Modules as a user would write them, and some as they should not: for tests of `class:` paths."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class QueryCross(nn.Module):
    """Products of two inputs of equal width."""

    def __init__(self, inputs: Mapping[str, int], scale: float = 1.0) -> None:
        super().__init__()
        (width,) = set(inputs.values())
        self.scale = scale
        self.weight = nn.Parameter(torch.ones(width))
        self.out_features = width

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        first, second = inputs.values()
        return self.scale * first * second * self.weight


class WithTable(nn.Module):
    """Has a table of its own, read by the bucket of a number."""

    def __init__(self, inputs: Mapping[str, int], rows: int = 7) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 4)
        self.out_features = 4

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        (number,) = inputs.values()
        bucket = number[:, 0].abs().long() % self.table.num_embeddings
        return self.table(bucket)


class NoWidth(nn.Module):
    """Lacks `out_features`."""

    def __init__(self, inputs: Mapping[str, int]) -> None:
        super().__init__()


class NotAModule:
    """Not an `nn.Module`."""

    out_features = 3

    def __init__(self, inputs: Mapping[str, int]) -> None:
        pass


NOT_A_CLASS = 5

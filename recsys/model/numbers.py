"""Raw numbers → model inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.data.layout import NumberColumn

CLIP = 4.0  # standard deviations
QUANTILES = 255


def signed_log1p(x: Tensor) -> Tensor:
    """sign(x) · log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


class NumberTransforms(nn.Module):
    """The transforms of some of a level's number features.

    With x a raw number and NaN its absence:

    - `none`: x
    - `log1p`: sign(x) · log(1 + |x|), standardised, clipped to ±4
    - `standard`: (x − mean) / std, clipped to ±4
    - `rank`: 2 · F(x) − 1, where F is the share of fitted quantiles below x

    The mean and std of the logarithm are those of the fitted quantiles' logarithms. An absent
    number is 0 under each transform. Each feature that may be absent adds a missing indicator. All
    that is fitted is in buffers, and travels with the weights.

    Args:
        columns: all number features of the level, in the order of the batch's columns.
        names: the features to transform; None takes all that feed the trunk (no `surfaces`).
    """

    take: Tensor
    _nullable: Tensor
    mean: Tensor
    std: Tensor
    log_mean: Tensor
    log_std: Tensor
    quantiles: Tensor

    def __init__(self, columns: Sequence[NumberColumn], names: Sequence[str] | None = None) -> None:
        super().__init__()
        if names is None:
            names = [column.name for column in columns if column.feature.surfaces is None]
        self.columns = [column for column in columns if column.name in names]
        positions = {column.name: i for i, column in enumerate(columns)}
        self.register_buffer(
            "take",
            torch.tensor([positions[c.name] for c in self.columns], dtype=torch.long),
            persistent=False,
        )
        n = len(self.columns)
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("std", torch.ones(n))
        self.register_buffer("log_mean", torch.zeros(n))
        self.register_buffer("log_std", torch.ones(n))
        self.register_buffer("quantiles", torch.linspace(-1, 1, QUANTILES).repeat(n, 1))
        # Output columns: the features under `none`, then under `log1p`, …, then the indicators.
        self.groups: dict[str, list[int]] = {}
        for transform in ("none", "log1p", "standard", "rank"):
            found = [i for i, c in enumerate(self.columns) if transform in c.feature.number]
            if found:
                self.groups[transform] = found
        self.nullable = [i for i, c in enumerate(self.columns) if not c.feature.required]
        for name, found in {**self.groups, "nullable": self.nullable}.items():
            self.register_buffer(
                f"_{name}", torch.tensor(found, dtype=torch.long), persistent=False
            )

    @property
    def out_features(self) -> int:
        """Number of output columns."""
        return sum(map(len, self.groups.values())) + len(self.nullable)

    def columns_of(self, name: str) -> list[int]:
        """The output columns of one feature."""
        flat = [i for found in self.groups.values() for i in found] + self.nullable
        return [at for at, i in enumerate(flat) if self.columns[i].name == name]

    def fit(self, numbers: Mapping[str, Any]) -> None:
        """Takes means, stds and quantiles from the statistics of the train split.

        `numbers` maps `level.name` to an object with `mean`, `std` and `quantiles`.
        """
        for i, column in enumerate(self.columns):
            found = numbers.get(f"{column.level}.{column.name}")
            if found is not None:
                self.mean[i] = found.mean
                self.std[i] = found.std or 1.0
                quantiles = torch.as_tensor(found.quantiles, dtype=torch.float64)
                self.quantiles[i] = quantiles
                logs = signed_log1p(quantiles)
                self.log_mean[i] = logs.mean()
                # A number that is (nearly) always the same has no spread to divide by.
                self.log_std[i] = logs.std(correction=0) if logs.std() > 1e-6 else 1.0

    def forward(self, raw: Tensor) -> Tensor:
        """`[n, number features of the level]` with NaN for null → `[n, out_features]`."""
        if not self.columns:
            return raw.new_zeros(raw.shape[0], 0)
        x = raw.index_select(1, self.take)
        absent = x.isnan()
        x = torch.where(absent, 0.0, x)
        present = (~absent).to(x.dtype)
        parts = []
        for transform in self.groups:
            index = self.get_buffer(f"_{transform}")
            part = x.index_select(1, index)
            if transform == "log1p":
                part = (signed_log1p(part) - self.log_mean[index]) / self.log_std[index]
                part = part.clamp(-CLIP, CLIP)
            elif transform == "standard":
                part = (part - self.mean[index]) / self.std[index]
                part = part.clamp(-CLIP, CLIP)
            elif transform == "rank":
                # Not `part.t().contiguous()`: in an export, its copy is made for n ≠ 1 only.
                values = x.t().index_select(0, index)
                below = torch.searchsorted(self.quantiles[index], values)
                part = below.t().to(x.dtype) * (2.0 / QUANTILES) - 1.0
            parts.append(part * present.index_select(1, index))
        if self.nullable:
            parts.append(absent.to(x.dtype).index_select(1, self._nullable))
        return torch.cat(parts, dim=1)

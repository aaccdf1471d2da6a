"""A training loop written by hand in plain torch and torchrec, for one model only.

The model of `recsys train` on flat rows, without a configuration, a reader, logs or checkpoints:
embeddings of ten ids, ten numbers and the surface, a projection, three experts, and a gate, stem
and heads for each surface on its own rows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingEnv
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter


@dataclass
class Rows:
    """A batch of N flat rows, sorted by surface."""

    ids: KeyedJaggedTensor  # one id a feature and row
    numbers: Tensor  # [N, numbers]
    surface: Tensor  # [N]
    sizes: list[int]  # rows of each surface
    labels: Tensor  # [N, tasks], NaN where unknown


class Experts(nn.Module):
    """Three experts of 256 and 128 units as two matrix products."""

    def __init__(self, in_features: int, count: int = 3, wide: int = 256, narrow: int = 128):
        super().__init__()
        self.count = count
        self.first = nn.Linear(in_features, count * wide)
        bound = wide**-0.5
        self.weight = nn.Parameter(torch.empty(count, wide, narrow).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(count, 1, narrow))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x)).view(len(x), self.count, -1).transpose(0, 1)
        return F.relu(torch.baddbmm(self.bias, h, self.weight)).transpose(0, 1)


class Tower(nn.Module):
    """Gates, stem and heads of one surface."""

    def __init__(self, x_features: int, experts: int, h_features: int, stem: int, tasks: int):
        super().__init__()
        self.tasks, self.experts = tasks, experts
        self.gate = nn.Linear(x_features, tasks * experts)
        self.stem = nn.Linear(h_features, stem)
        self.heads = nn.ModuleList(nn.Linear(stem, 1) for _ in range(tasks))

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        gate = self.gate(x).view(len(x), self.tasks, self.experts).softmax(-1)
        h = F.relu(self.stem(torch.bmm(gate, experts)))
        return torch.cat([head(h[:, t]) for t, head in enumerate(self.heads)], dim=1)


class Model(nn.Module):
    """MMoE over concatenated features; with `width`, over a normed projection of them."""

    def __init__(self, tables: dict[str, int], dim: int, numbers: int, surfaces: int, tasks: int,
                 width: int | None, stem: int) -> None:  # fmt: skip
        super().__init__()
        configs = [
            EmbeddingBagConfig(num_embeddings=n, embedding_dim=dim, name=t, feature_names=[t])
            for t, n in tables.items()
        ]
        self.embeddings = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
        self.surface = nn.Embedding(surfaces, min(16, 4 * surfaces))
        features = len(tables) * dim + numbers + self.surface.embedding_dim
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("std", torch.ones(numbers))
        self.projection = nn.Identity()
        if width:
            self.projection = nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width))
        self.experts = Experts(width or features)
        self.towers = nn.ModuleList(
            Tower(width or features, 3, 128, stem, tasks) for _ in range(surfaces)
        )

    def forward(self, rows: Rows) -> Tensor:
        logs = rows.numbers.sign() * rows.numbers.abs().log1p()
        numbers = ((logs - self.mean) / self.std).clamp(-4, 4)
        pooled = self.embeddings(rows.ids).values()
        x = self.projection(torch.cat([pooled, numbers, self.surface(rows.surface)], dim=1))
        parts = zip(x.split(rows.sizes), self.experts(x).split(rows.sizes), strict=True)
        return torch.cat([t(*p) for t, p in zip(self.towers, parts, strict=True) if len(p[0])])


class Loop:
    """The sharded model, its optimizers and the loop over batches."""

    def __init__(self, model: Model, lr: float = 1e-3, sparse_lr: float = 0.02,
                 warmup: int = 100, clip: float = 1.0) -> None:  # fmt: skip
        self.lr, self.warmup, self.clip, self.steps = lr, warmup, clip, 0
        apply_optimizer_in_backward(
            RowWiseAdagrad, model.embeddings.parameters(), {"lr": sparse_lr, "eps": 1e-8}
        )
        tables = [config.name for config in model.embeddings.embedding_bag_configs()]
        wanted = ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=1, compute_device="cpu"),
            constraints=dict.fromkeys(tables, wanted),
        )
        sharders = [EmbeddingBagCollectionSharder()]
        self.model = DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(torch.distributed.group.WORLD),
            device=torch.device("cpu"),
            plan=planner.plan(model, sharders),
            sharders=sharders,
            init_data_parallel=False,
        )
        self.dense = dict(in_backward_optimizer_filter(self.model.named_parameters()))
        self.adam = torch.optim.AdamW(
            self.dense.values(), lr=lr, eps=1e-8, weight_decay=0.0, fused=True
        )

    def loss(self, rows: Rows) -> Tensor:
        logits, labels = self.model(rows).split(rows.sizes), rows.labels.split(rows.sizes)
        total = logits[0].new_zeros(())
        for z, y in zip(logits, labels, strict=True):
            known = ~y.isnan()
            bce = F.binary_cross_entropy_with_logits(z, y.nan_to_num(), reduction="none")
            total = total + ((bce * known).sum(0) / known.sum(0).clamp(min=1)).sum()
        return total

    def run(self, batches: list[Rows]) -> Tensor:
        """Trains on every batch; returns the mean loss."""
        total = torch.zeros(())
        for rows in batches:
            self.adam.param_groups[0]["lr"] = self.lr * min(1.0, (self.steps + 1) / self.warmup)
            loss = self.loss(rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.dense.values(), self.clip, foreach=True)
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
            self.steps += 1
            total += loss.detach()
        return total / len(batches)

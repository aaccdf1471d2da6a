"""The tower tree of one surface."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.config.surfaces import TowerConfig
from recsys.model.experts import Gate, mix
from recsys.model.mlp import mlp
from recsys.model.sequence import History


class LateFusion(nn.Module):
    """One module of a surface, added to the stem's input through a projection that starts at zero.

    `h ← h + P module(inputs)` with P = 0 at initialisation, so that adding a module to the
    configuration does not change any prediction before it is trained.
    """

    def __init__(self, module: nn.Module, out_features: int) -> None:
        super().__init__()
        self.module = module
        self.project = nn.Linear(module.out_features, out_features)  # type: ignore[arg-type]
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, inputs: Mapping[str, Tensor | History]) -> Tensor:
        """→ `[n, out_features]`."""
        return self.project(self.module(inputs))


class Tower(nn.Module):
    """Gates → stem → branches → heads of one surface; only its own rows ever enter.

    Each task t mixes the experts by its own gate, `h_t = Σ_e g_te f_e(x)`. The late-fusion modules
    are added, the stem is shared by the tasks, then each task has its branch (if configured) and
    its head, a linear layer to one logit.

    Args:
        config: `surfaces.NAME.tower`.
        tasks: of the surface, in the order of the output's columns.
        trunk_features: width of the trunk's output x.
        experts: number of experts.
        expert_features: width of an expert's output.
        fusions: late-fusion modules with the names of their inputs, each of `expert_features`.
    """

    def __init__(
        self,
        config: TowerConfig,
        tasks: Sequence[str],
        trunk_features: int,
        experts: int,
        expert_features: int,
        fusions: Sequence[tuple[Sequence[str], LateFusion]] = (),
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.gate = Gate(trunk_features, len(tasks), experts)
        self.fusion_inputs = [tuple(inputs) for inputs, _ in fusions]
        self.fusions = nn.ModuleList(fusion for _, fusion in fusions)
        self.stem = mlp(expert_features, config.stem, config.dropout)
        stem_features = config.stem[-1] if config.stem else expert_features
        self.branches = nn.ModuleDict(
            {
                task: mlp(stem_features, config.branches[task], config.dropout)
                for task in tasks
                if config.branches.get(task)
            }
        )
        self.heads = nn.ModuleDict(
            {
                task: nn.Linear((config.branches.get(task) or (stem_features,))[-1], 1)
                for task in tasks
            }
        )

    def forward(self, x: Tensor, experts: Tensor, inputs: Mapping[str, Tensor | History]) -> Tensor:
        """Logits of the surface's rows.

        Args:
            x: `[n, trunk_features]` output of the trunk, what the gates look at.
            experts: `[n, E, expert_features]`.
            inputs: what the late-fusion modules read.

        Returns: `[n, T]`, T the surface's tasks.
        """
        h = mix(self.gate(x), experts)
        for names, fusion in zip(self.fusion_inputs, self.fusions, strict=True):
            h = h + fusion({name: inputs[name] for name in names}).unsqueeze(1)
        h = self.stem(h)
        logits = []
        # One `unbind` has one gradient; each of several `h[:, i]` would have one of the size of h.
        for task, branch in zip(self.tasks, h.unbind(1), strict=True):
            if task in self.branches:
                branch = self.branches[task](branch)  # noqa: PLW2901
            logits.append(self.heads[task](branch))
        return torch.cat(logits, dim=1)

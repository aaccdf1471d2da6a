"""The tower tree of one surface."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from recsys.config.model import ModelConfig
from recsys.config.surfaces import TowerConfig
from recsys.model.experts import Experts, Gate, expert_layers, mix
from recsys.model.mlp import mlp
from recsys.model.named import NamedModules
from recsys.model.sequence import History
from recsys.model.stems import PersonalStem, StarStem


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

    Each task t mixes the experts, shared ones and the surface's own, by its own gate,
    `h_t = Σ_e g_te f_e(x)`: MMoE, and with own experts one layer of PLE (CGC, Tang et al. 2020).
    With more layers, the experts of each are those of `ExpertLayer`, and the tasks' gates look at
    what the surface's own half of the last layer read.
    The late-fusion modules are added, the stem is shared by the tasks, then each task has its
    branch (if configured) and its head, a linear layer to one logit.

    Args:
        config: `surfaces.NAME.tower`.
        tasks: of the surface, in the order of the output's columns.
        model: `model`.
        prior_features: widths of the features named in `model.gates.ppnet`.
        fusions: late-fusion modules with the names of their inputs, as wide as an expert's output.
    """

    def __init__(
        self,
        config: TowerConfig,
        tasks: Sequence[str],
        model: ModelConfig,
        prior_features: Mapping[str, int] = MappingProxyType({}),
        fusions: Sequence[tuple[Sequence[str], LateFusion]] = (),
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        trunk_features, shape = model.projection.width, model.experts
        expert_features = shape.hidden[-1]
        self.own: Experts | None = None
        if shape.own:
            self.own = Experts(trunk_features, shape.own, shape.hidden, shape.dropout)
        self.layers = expert_layers(trunk_features, shape.own, shape)
        gated = trunk_features if shape.layers == 1 else expert_features
        self.gate = Gate(gated, len(tasks), shape.count + shape.own)
        self.fusion_inputs = [tuple(inputs) for inputs, _ in fusions]
        self.fusions = nn.ModuleList(fusion for _, fusion in fusions)
        self.priors = tuple(prior_features)
        self.stem: nn.Module
        if self.priors:
            width = sum(prior_features.values())
            self.stem = PersonalStem(expert_features, config.stem, width, config.dropout)
        elif model.towers == "star":
            self.stem = StarStem(expert_features, config.stem, config.dropout)
        else:
            self.stem = mlp(expert_features, config.stem, config.dropout)
        stem_features = config.stem[-1] if config.stem else expert_features
        self.branches = NamedModules(
            {
                task: mlp(stem_features, config.branches[task], config.dropout)
                for task in tasks
                if config.branches.get(task)
            }
        )
        self.heads = NamedModules(
            {
                task: nn.Linear((config.branches.get(task) or (stem_features,))[-1], 1)
                for task in tasks
            }
        )

    def forward(
        self,
        x: Tensor,
        experts: Tensor,
        inputs: Mapping[str, Tensor | History],
        shared_stem: nn.ModuleList | None = None,
        shared_layers: nn.ModuleList | None = None,
    ) -> Tensor:
        """Logits of the surface's rows.

        Args:
            x: `[n, trunk_features]` output of the trunk, what the gates look at.
            experts: `[n, E, expert_features]`, the shared ones.
            inputs: what the late-fusion modules and the gates of the stem read.
            shared_stem: what a `StarStem` multiplies.
            shared_layers: the shared halves of the layers of experts after the first.

        Returns: `[n, T]`, T the surface's tasks.
        """
        if self.own is not None:
            experts = torch.cat([experts, self.own(x)], dim=1)
        shared = x
        for ours, theirs in zip(self.layers, shared_layers or (), strict=True):
            shared, of_all = theirs(shared, experts)
            x, of_surface = ours(x, experts)
            experts = torch.cat([of_all, of_surface], dim=1)
        h = mix(self.gate(x), experts)
        for names, fusion in zip(self.fusion_inputs, self.fusions, strict=True):
            h = h + fusion({name: inputs[name] for name in names}).unsqueeze(1)
        if self.priors:
            h = self.stem(h, torch.cat([inputs[name] for name in self.priors], dim=1))  # type: ignore[arg-type,misc]
        elif shared_stem is not None:
            h = self.stem(h, shared_stem)
        else:
            h = self.stem(h)
        logits = []
        # One `unbind` has one gradient; each of several `h[:, i]` would have one of the size of h.
        for task, branch in zip(self.tasks, h.unbind(1), strict=True):
            if task in self.branches:
                branch = self.branches[task](branch)  # noqa: PLW2901
            logits.append(self.heads[task](branch))
        return torch.cat(logits, dim=1)

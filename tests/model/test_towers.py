"""The tower tree, step by step."""

import pytest
import torch
from torch import Tensor

from recsys.config import TowerConfig
from recsys.config.model import ModelConfig
from recsys.model.modules.mlp import MLP
from recsys.model.towers import LateFusion, Tower

TASKS = ["click", "like"]
MODEL = ModelConfig.model_validate(
    {"projection": {"width": 8}, "experts": {"count": 3, "hidden": [6]}}
)


def tower_of(**keys: object) -> Tower:
    torch.manual_seed(0)
    fusion = LateFusion(MLP({"a": 2, "b": 3}, hidden=[4]), 6)
    return Tower(TowerConfig(**keys), TASKS, MODEL, fusions=[(["a", "b"], fusion)])


def rows() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    inputs = {"a": torch.randn(7, 2), "b": torch.randn(7, 3), "not named": torch.randn(7, 9)}
    return torch.randn(7, 8), torch.randn(7, 3, 6), inputs


@pytest.mark.parametrize(
    "keys",
    [{}, {"stem": []}, {"stem": [8, 4], "branches": {"like": [5, 3]}}, {"branches": {"click": []}}],
)
def test_a_tower_is_gate_fusion_stem_branch_head(keys: dict) -> None:
    tower = tower_of(**keys)
    with torch.no_grad():
        tower.fusions[0].project.weight.normal_()
    x, experts, inputs = rows()
    logits = tower(x, experts, inputs)
    assert logits.shape == (7, 2)
    fused = tower.fusions[0]({"a": inputs["a"], "b": inputs["b"]})
    for t, task in enumerate(TASKS):
        shares = tower.gate(x)[:, t]
        h = (shares.unsqueeze(-1) * experts).sum(1) + fused
        h = tower.stem(h)
        if task in tower.branches:
            h = tower.branches[task](h)
        torch.testing.assert_close(logits[:, t], tower.heads[task](h)[:, 0])
    assert ("like" in tower.branches) == bool(keys.get("branches", {}).get("like"))


def test_widths_are_those_of_the_configuration() -> None:
    tower = tower_of(stem=[8, 4], branches={"like": [5, 3]}, dropout=0.1)
    shapes = [p.shape for p in tower.stem.parameters() if p.dim() == 2]
    assert shapes == [(8, 6), (4, 8)]
    assert [p.shape for p in tower.branches["like"].parameters() if p.dim() == 2] == [
        (5, 4),
        (3, 5),
    ]
    assert tower.heads["click"].weight.shape == (1, 4)
    assert tower.heads["like"].weight.shape == (1, 3)
    dropouts = [m for m in tower.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(dropouts) == 4
    assert all(m.p == 0.1 for m in dropouts)


def test_a_late_fusion_starts_at_zero() -> None:
    fusion = tower_of().fusions[0]
    inputs = {name: rows()[2][name] for name in ("a", "b")}
    assert bool((fusion.module(inputs) != 0).any())
    assert bool((fusion(inputs) == 0).all())


def test_a_task_does_not_reach_the_branch_of_another() -> None:
    tower = tower_of(branches={"click": [3], "like": [3]})
    x, experts, inputs = rows()
    tower(x, experts, inputs)[:, 0].sum().backward()
    for part in (tower.branches["like"], tower.heads["like"]):
        gradients = [p.grad for p in part.parameters()]
        assert all(g is None or bool((g == 0).all()) for g in gradients)
    assert bool((tower.heads["click"].weight.grad != 0).any())
    # The other task's rows of the gate stay without a gradient too.
    assert bool((tower.gate.linear.weight.grad[3:] == 0).all())

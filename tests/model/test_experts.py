"""Experts against a loop of plain ones."""

import pytest
import torch
from torch import nn

from recsys.config import TowerConfig
from recsys.config.model import ModelConfig
from recsys.model.experts import Experts, Gate, expert_layers, mix
from recsys.model.towers import Tower


@pytest.mark.parametrize("hidden", [[6], [6, 4], [6, 4, 3]])
@pytest.mark.parametrize("count", [1, 3])
def test_experts_are_a_loop_of_mlps(count: int, hidden: list[int]) -> None:
    torch.manual_seed(0)
    experts = Experts(5, count, hidden)
    x = torch.randn(7, 5)
    output = experts(x)
    assert output.shape == (7, count, hidden[-1])
    assert experts.out_features == hidden[-1]
    for e in range(count):
        layers: list[nn.Module] = []
        first = nn.Linear(5, hidden[0])
        rows = slice(e * hidden[0], (e + 1) * hidden[0])
        first.load_state_dict(
            {"weight": experts.first.weight[rows], "bias": experts.first.bias[rows]}
        )
        layers += [first, nn.ReLU()]
        for weight, bias in zip(experts.weights, experts.biases, strict=True):
            later = nn.Linear(weight.shape[1], weight.shape[2])
            later.load_state_dict({"weight": weight[e].t(), "bias": bias[e, 0]})
            layers += [later, nn.ReLU()]
        torch.testing.assert_close(output[:, e], nn.Sequential(*layers)(x), rtol=0, atol=1e-6)


def test_all_layers_start_on_the_scale_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    experts = Experts(64, 4, [100, 50])
    for weight in (experts.weights[0], experts.biases[0]):
        assert weight.abs().max() <= 0.1  # 1 / √100
        assert weight.std() > 0.04


def test_experts_drop_out_in_training_only() -> None:
    torch.manual_seed(0)
    experts = Experts(5, 2, [6, 4], dropout=0.5)
    x = torch.randn(7, 5)
    assert not torch.equal(experts(x), experts(x))
    experts.eval()
    assert torch.equal(experts(x), experts(x))


def test_gates_are_shares_of_each_task() -> None:
    torch.manual_seed(0)
    gate = Gate(5, tasks=2, experts=3)
    x = torch.randn(7, 5)
    shares = gate(x)
    assert shares.shape == (7, 2, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(7, 2))
    # Rows of the matrix are experts within tasks: another task's rows do not matter.
    with torch.no_grad():
        gate.linear.weight[3:].normal_()
    changed = gate(x)
    assert torch.equal(changed[:, 0], shares[:, 0])
    assert not torch.allclose(changed[:, 1], shares[:, 1])


def test_mix_is_the_weighted_sum_of_experts() -> None:
    torch.manual_seed(0)
    shares, outputs = torch.rand(4, 2, 3), torch.randn(4, 3, 5)
    mixed = mix(shares, outputs)
    for n in range(4):
        for t in range(2):
            expected = sum(shares[n, t, e] * outputs[n, e] for e in range(3))
            torch.testing.assert_close(mixed[n, t], expected)
    assert mix(shares[:0], outputs[:0]).shape == (0, 2, 5)


@pytest.mark.parametrize("layers", [2, 3])
def test_layers_of_ple_are_their_formula(layers: int) -> None:
    """Gate by gate and expert by expert, for the rows of one surface."""
    shape = {"count": 2, "own": 2, "hidden": [5, 4], "layers": layers}
    model = ModelConfig.model_validate({"projection": {"width": 8}, "experts": shape})
    torch.manual_seed(0)
    shared = Experts(8, 2, [5, 4])
    others = expert_layers(8, 2, model.experts)
    tower = Tower(TowerConfig(stem=()), ["click", "like"], model)
    assert len(others) == len(tower.layers) == layers - 1
    x = torch.randn(9, 8)
    logits = tower(x, shared(x), {}, None, others)

    def gated(gate: nn.Module, at: torch.Tensor, of: torch.Tensor, t: int = 0) -> torch.Tensor:
        shares = gate.linear(at).view(9, -1, 4)[:, t].softmax(-1)
        return sum(shares[:, e, None] * of[:, e] for e in range(4))

    assert tower.own is not None
    every = torch.cat([shared(x), tower.own(x)], dim=1)
    for_all, mine = x, x
    for theirs, ours in zip(others, tower.layers, strict=True):
        for_all, mine = gated(theirs.gate, for_all, every), gated(ours.gate, mine, every)
        every = torch.cat([theirs.experts(for_all), ours.experts(mine)], dim=1)
    for t, task in enumerate(("click", "like")):
        expected = tower.heads[task](gated(tower.gate, mine, every, t))[:, 0]
        torch.testing.assert_close(logits[:, t], expected, rtol=0, atol=1e-6)


def test_one_layer_has_no_more() -> None:
    assert len(expert_layers(6, 2, ModelConfig().experts)) == 0


def test_layers_need_own_experts() -> None:
    with pytest.raises(ValueError, match="layers 2 needs experts of surfaces; give own: 1"):
        ModelConfig.model_validate({"experts": {"layers": 2}})

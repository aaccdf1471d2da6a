"""The layers of multi-domain peers, against their formulas; what starts as the plain model does."""

import pytest
import torch
from torch import nn

from recsys.model.gates import GateUnit
from recsys.model.stems import PersonalStem, StarStem, linears
from recsys.model.unified import build_model
from tests.model.models import draw_weights
from tests.model.requests import by_surface, collate, random_config, random_requests


def test_a_gate_is_between_0_and_2_and_passes_no_gradient_to_what_it_looks_at() -> None:
    torch.manual_seed(0)
    unit = GateUnit(5, 4)
    prior, x = torch.randn(6, 2, requires_grad=True), torch.randn(6, 3, 3, requires_grad=True)
    assert torch.equal(unit(prior, x), torch.ones(6, 3, 4))
    draw_weights(unit, 1)
    gates = unit(prior, x)
    assert gates.min() > 0
    assert gates.max() < 2
    both = torch.cat([prior.unsqueeze(1).expand(6, 3, 2), x], dim=2)
    expected = 2 * torch.sigmoid(unit.out(torch.relu(unit.hidden(both))))
    torch.testing.assert_close(gates, expected)
    gates.sum().backward()
    assert x.grad is None
    assert prior.grad is not None


def test_a_personal_stem_scales_each_layer() -> None:
    stem = PersonalStem(4, [5, 3], 2)
    draw_weights(stem, 2)
    h, prior = torch.randn(7, 2, 4), torch.randn(7, 2)
    expected = h
    for layer, gate in zip(stem.layers, stem.gates, strict=True):
        expected = gate(prior, expected) * torch.relu(layer(expected))
    torch.testing.assert_close(stem(h, prior), expected)


def test_a_star_stem_multiplies_shared_and_own_weights() -> None:
    stem, shared = StarStem(4, [5, 3]), linears(4, [5, 3])
    h = torch.randn(7, 2, 4)
    plain = nn.Sequential(shared[0], nn.ReLU(), shared[1], nn.ReLU())
    assert torch.equal(stem(h, shared), plain(h))
    draw_weights(stem, 3)
    expected = h
    for layer, weight, bias in zip(shared, stem.weights, stem.biases, strict=True):
        expected = torch.relu(expected @ (layer.weight * weight).T + layer.bias + bias)
    torch.testing.assert_close(stem(h, shared), expected)


@pytest.mark.parametrize("gates", [{"epnet": True}, {"ppnet": ["user_id", "item"]}])
def test_gates_change_no_prediction_at_step_0(gates: dict) -> None:
    plain = random_config(0)
    model = plain.model.model_copy(update={"gates": type(plain.model.gates)(**gates)})
    gated = plain.model_copy(update={"model": model})
    requests = by_surface(plain, random_requests(plain, 10, 0))
    first, second = build_model(plain), build_model(gated)
    weights = first.state_dict()
    if "ppnet" in gates:
        weights = {_personal(name): value for name, value in weights.items()}
    missing = second.load_state_dict(weights, strict=False)
    assert missing.missing_keys
    assert not missing.unexpected_keys
    with torch.no_grad():
        batch = collate(plain, requests)
        torch.testing.assert_close(second(batch), first(batch), rtol=0, atol=1e-6)


def _personal(name: str) -> str:
    """The name of a stem's layer among the layers of a `PersonalStem`: ReLUs are not counted."""
    before, stem, at = name.partition(".tower.stem.")
    if not stem:
        return name
    number, rest = at.split(".", 1)
    return f"{before}{stem}layers.{int(number) // 2}.{rest}"

"""The built-in late-fusion modules and `mlp`."""

import pytest
import torch
from torch import nn

from recsys.config import ModuleConfig
from recsys.model.mlp import mlp
from recsys.model.modules import BUILT_IN, build_module
from recsys.model.sequence import History

INPUTS = {"query": 4, "item": 6}


def built(name: str, inputs: dict[str, int], **arguments: object) -> nn.Module:
    config = ModuleConfig.model_validate({"class": name, "inputs": list(inputs), **arguments})
    return build_module(config, inputs, "here")


def test_the_built_in_ones() -> None:
    assert set(BUILT_IN) == {"mlp", "low_rank_cross", "history_attention"}


def test_mlp_reads_all_inputs() -> None:
    torch.manual_seed(0)
    module = built("mlp", INPUTS, hidden=[5, 3])
    inputs = {"query": torch.randn(7, 4), "item": torch.randn(7, 6)}
    output = module(inputs)
    assert output.shape == (7, module.out_features) == (7, 3)
    x = torch.cat([inputs["query"], inputs["item"]], dim=1)
    first, _, second, _ = module.layers
    torch.testing.assert_close(output, second(first(x).relu()).relu())


def test_low_rank_cross_crosses_its_inputs() -> None:
    torch.manual_seed(0)
    module = built("low_rank_cross", INPUTS, layers=2, rank=3)
    inputs = {"query": torch.randn(7, 4), "item": torch.randn(7, 6)}
    output = module(inputs)
    assert output.shape == (7, module.out_features) == (7, 10)
    assert [w.shape for w in module.cross.net.V_kernels] == [(3, 10)] * 2
    torch.testing.assert_close(output, module.cross(torch.cat(list(inputs.values()), dim=1)))


def test_history_attention_queries_the_history_with_the_other_inputs() -> None:
    torch.manual_seed(0)
    module = built("history_attention", {"history": 8, **INPUTS}, heads=4)
    assert module.out_features == 16  # what is attended to, and its product with the query
    assert module.attention.attention.heads == 4
    tokens, mask = torch.randn(2, 5, 8), torch.ones(2, 5).bool()
    history = History(tokens, mask, torch.tensor([0, 0, 1]), 2)
    inputs = {"query": torch.randn(3, 4), "history": history, "item": torch.randn(3, 6)}
    output = module(inputs)
    expected = module.attention(torch.cat([inputs["query"], inputs["item"]], dim=1), history)
    assert torch.equal(output, expected)
    moved = History(tokens + 1, mask, history.request_index, 2)
    assert not torch.allclose(module({**inputs, "history": moved}), output)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stack_of_layers(dropout: float) -> None:
    kinds = [type(layer) for layer in mlp(4, [3, 2], dropout)]
    once = [nn.Linear, nn.ReLU, nn.Dropout] if dropout else [nn.Linear, nn.ReLU]
    assert kinds == once * 2
    x = torch.randn(5, 4)
    assert mlp(4, [3, 2], dropout)(x).shape == (5, 2)
    assert torch.equal(mlp(4, [])(x), x)

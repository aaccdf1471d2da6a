"""Attention against torch's own modules with the same weights."""

import pytest
import torch
from torch import nn

from recsys.model.attention import Attention, TransformerLayer, positions_in_runs


def copy_attention(source: Attention, target: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        target.in_proj_weight.copy_(torch.cat([source.query.weight, source.key_value.weight]))
        target.in_proj_bias.copy_(torch.cat([source.query.bias, source.key_value.bias]))
        target.out_proj.load_state_dict(source.out.state_dict())


def a_mask(rows: int, keys: int) -> torch.Tensor:
    """Some keys of each row, the first always."""
    return torch.arange(keys) < torch.randint(1, keys + 1, (rows, 1))


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_torchs(heads: int) -> None:
    torch.manual_seed(0)
    attention = Attention(8, heads)
    reference = nn.MultiheadAttention(8, heads, batch_first=True)
    copy_attention(attention, reference)
    queries, keys, mask = torch.randn(5, 3, 8), torch.randn(5, 7, 8), a_mask(5, 7)
    expected, _ = reference(queries, keys, keys, key_padding_mask=~mask)
    torch.testing.assert_close(attention(queries, keys, mask), expected, rtol=0, atol=1e-6)


def test_a_masked_key_has_no_influence() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    queries, keys, mask = torch.randn(2, 3, 8), torch.randn(2, 4, 8), torch.ones(2, 4).bool()
    mask[1, 2] = False
    before = attention(queries, keys, mask)
    keys[1, 2] += 100
    assert torch.equal(attention(queries, keys, mask), before)


def a_trained_layer(dropout: float = 0.0) -> TransformerLayer:
    """One whose residual branches are not zero any more."""
    layer = TransformerLayer(8, 2, 12, dropout)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def test_a_layer_starts_as_the_identity() -> None:
    x, mask = torch.randn(4, 6, 8), a_mask(4, 6)
    assert torch.equal(TransformerLayer(8, 2, 12, dropout=0.5)(x, mask), x)
    assert not torch.equal(a_trained_layer()(x, mask), x)


def test_a_layer_is_torchs_pre_norm_encoder_layer() -> None:
    torch.manual_seed(1)
    layer = a_trained_layer()
    reference = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation="relu", batch_first=True, norm_first=True
    )
    copy_attention(layer.attention, reference.self_attn)
    reference.norm1.load_state_dict(layer.attention_norm.state_dict())
    reference.norm2.load_state_dict(layer.feedforward_norm.state_dict())
    reference.linear1.load_state_dict(layer.feedforward[0].state_dict())
    reference.linear2.load_state_dict(layer.feedforward[2].state_dict())
    x, mask = torch.randn(4, 6, 8), a_mask(4, 6)
    expected = reference(x, src_key_padding_mask=~mask)
    actual = layer(x, mask)
    torch.testing.assert_close(actual[mask], expected[mask], rtol=0, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(2)
    layer = a_trained_layer(dropout=0.5)
    x, mask = torch.randn(2, 4, 8), torch.ones(2, 4).bool()
    assert not torch.equal(layer(x, mask), layer(x, mask))
    layer.eval()
    assert torch.equal(layer(x, mask), layer(x, mask))


def test_no_row_is_an_input_too() -> None:
    layer = TransformerLayer(8, 2, 12)
    assert layer(torch.zeros(0, 3, 8), torch.zeros(0, 3).bool()).shape == (0, 3, 8)


def test_positions_in_runs() -> None:
    run, position = positions_in_runs(torch.tensor([2, 0, 3]), 5)
    assert run.tolist() == [0, 0, 2, 2, 2]
    assert position.tolist() == [0, 1, 0, 1, 2]
    empty = positions_in_runs(torch.zeros(0, dtype=torch.long), 0)
    assert [x.tolist() for x in empty] == [[], []]

"""The history: request by request equals all requests at once, by either path of the attention."""

import random

import pytest
import torch
from torch import Tensor

from recsys.config.model import SequenceConfig
from recsys.model.sequence import CandidateAttention, History, HistoryEncoder

CONFIG = SequenceConfig(dim=8, layers=2, heads=2, feedforward=12)
FEATURES = 5
LENGTH = 6


def encoder_of(seed: int) -> HistoryEncoder:
    torch.manual_seed(seed)
    encoder = HistoryEncoder(CONFIG, FEATURES, LENGTH)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.5)
    return encoder


def encode(encoder: HistoryEncoder, histories: list[Tensor], index: list[int]) -> History:
    lengths = [len(events) for events in histories]
    return encoder(
        torch.cat([torch.zeros(0, FEATURES), *histories]),
        torch.tensor(lengths, dtype=torch.long),
        max(lengths, default=0),
        torch.tensor(index, dtype=torch.long),
        max((index.count(i) for i in index), default=0),
    )


@pytest.mark.parametrize("seed", range(3))
def test_each_history_is_encoded_as_if_alone(seed: int) -> None:
    encoder = encoder_of(seed)
    draw = random.Random(seed)
    histories = [torch.randn(draw.choice([0, 1, 3, LENGTH]), FEATURES) for _ in range(7)]
    together = encode(encoder, histories, [])
    for i, events in enumerate(histories):
        alone = encode(encoder, [events], [])
        count = len(events) + 1  # and the user's own token
        assert together.mask[i].tolist() == [j < count for j in range(together.mask.shape[1])]
        torch.testing.assert_close(together.tokens[i, :count], alone.tokens[0], rtol=0, atol=1e-5)


def test_positions_count_from_the_newest_event() -> None:
    """An older event in front leaves the positions of the others as they are."""
    encoder = encoder_of(0)
    seen: list[Tensor] = []
    encoder.layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    events = torch.randn(4, FEATURES)
    encode(encoder, [events], [])
    encode(encoder, [events[1:]], [])
    torch.testing.assert_close(seen[0][0, 2:], seen[1][0, 1:])
    newest = encoder.event(events[3]) + encoder.position[0]
    torch.testing.assert_close(seen[0][0, 4], newest)
    torch.testing.assert_close(seen[0][0, 0], encoder.user_token)


def test_the_order_of_events_matters() -> None:
    encoder = encoder_of(0)
    events = torch.randn(4, FEATURES)
    forward, backward = (encode(encoder, [e], []).tokens[0, 0] for e in (events, events.flip(0)))
    assert not torch.allclose(forward, backward, atol=1e-3)


def test_a_longer_history_than_configured_is_refused_by_its_position() -> None:
    with pytest.raises(IndexError):
        encode(encoder_of(0), [torch.randn(LENGTH + 1, FEATURES)], [])


@pytest.mark.parametrize(
    ("counts", "gathered"),
    [([2, 3, 1], False), ([40, *[1] * 30], True), ([0, 5, 0], False), ([0, *[0] * 30, 4], True)],
)
def test_both_paths_attend_alike(counts: list[int], gathered: bool) -> None:
    encoder = encoder_of(1)
    torch.manual_seed(1)
    attention = CandidateAttention(CONFIG.dim, 2, in_features=4)
    index = [i for i, count in enumerate(counts) for _ in range(count)]
    history = encode(encoder, [torch.randn(i % 4, FEATURES) for i in range(len(counts))], index)
    assert (len(counts) * max(counts) > 8 * sum(counts)) == gathered
    candidates = torch.randn(len(index), 4)
    result = attention(candidates, history)
    for row, request in enumerate(index):
        one = History(
            history.tokens[request : request + 1],
            history.mask[request : request + 1],
            torch.zeros(1, dtype=torch.long),
            1,
        )
        expected = attention(candidates[row : row + 1], one)[0]
        torch.testing.assert_close(result[row], expected, rtol=0, atol=1e-6)


def test_the_output_is_what_is_attended_to_and_its_product_with_the_query() -> None:
    torch.manual_seed(0)
    attention = CandidateAttention(CONFIG.dim, 2, in_features=4)
    assert attention.out_features == 2 * CONFIG.dim
    history = encode(encoder_of(1), [torch.randn(3, FEATURES)], [0, 0])
    candidates = torch.randn(2, 4)
    queries = attention.query(candidates)
    attended = attention.attention(queries.unsqueeze(0), history.tokens, history.mask)[0]
    expected = torch.cat([attended, attended * queries], dim=1)
    torch.testing.assert_close(attention(candidates, history), expected)


def test_the_part_of_a_surface() -> None:
    encoder = encoder_of(2)
    history = encode(encoder, [torch.randn(i, FEATURES) for i in range(4)], [0, 1, 1, 2, 3, 3])
    part = history.rows(slice(1, 3), slice(1, 4))
    assert part.request_index.tolist() == [0, 0, 1]
    assert torch.equal(part.tokens, history.tokens[1:3])
    assert torch.equal(part.mask, history.mask[1:3])


def test_no_request_at_all() -> None:
    encoder = encoder_of(0)
    history = encode(encoder, [], [])
    attention = CandidateAttention(CONFIG.dim, 2, in_features=4)
    assert attention(torch.zeros(0, 4), history).shape == (0, attention.out_features)

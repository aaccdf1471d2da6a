"""Both lookups give the same rows for the same weights, under the same names."""

import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.layout import Layout
from recsys.model.lookup import PlainLookup, ShardedLookup, pool
from tests.model.requests import collate, random_config, random_requests

SEEDS = [0, 1, 2]


def rows_by_hand(lookup: PlainLookup, batch: Batch, requests: list[dict]) -> dict[str, Tensor]:
    """The definition: one row a request, candidate or event; lists of ids are pooled."""
    found: dict[str, list[Tensor]] = {column.key: [] for column in lookup.layout.ids}
    for column in lookup.layout.ids:
        weight = lookup.tables[column.feature.id].weight
        for request in requests:
            elements = {
                "request": [request],
                "candidate": request["candidates"],
                "history": request["history"],
            }[column.level]
            for element in elements:
                ids = element[column.name]
                if not column.multi_valued:
                    found[column.key].append(weight[ids])
                elif not ids:
                    found[column.key].append(torch.zeros(weight.shape[1]))
                else:
                    rows = torch.stack([weight[i] for i in ids])
                    pooled = rows.mean(0) if column.feature.pooling == "mean" else rows.sum(0)
                    found[column.key].append(pooled)
    return {key: torch.stack(rows) for key, rows in found.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_are_those_of_the_definition(seed: int) -> None:
    config = random_config(seed)
    requests = random_requests(config, 8, seed, ["search"])
    batch = collate(config, requests)
    lookup = PlainLookup(Layout(config))
    expected = rows_by_hand(lookup, batch, requests)
    rows = lookup(batch)
    assert rows.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(rows[key], value, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_and_sharded_are_interchangeable(seed: int) -> None:
    config = random_config(seed)
    layout = Layout(config)
    batch = collate(config, random_requests(config, 10, seed))
    plain, sharded = PlainLookup(layout), ShardedLookup(layout, device="cpu")
    assert plain.state_dict().keys() == sharded.state_dict().keys()
    for source, target in ((plain, sharded), (sharded, plain)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        target.load_state_dict(source.state_dict())
        expected = source(batch)
        rows = target(batch)
        assert rows.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(rows[key], value, rtol=0, atol=1e-6, msg=key)


def test_gradients_of_both_are_equal() -> None:
    config = random_config(1)
    layout = Layout(config)
    batch = collate(config, random_requests(config, 10, 1))
    plain, sharded = PlainLookup(layout), ShardedLookup(layout, device="cpu")
    sharded.load_state_dict(plain.state_dict())
    for lookup in (plain, sharded):
        sum(rows.square().sum() for rows in lookup(batch).values()).backward()
    expected = dict(plain.named_parameters())
    for name, parameter in sharded.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=1e-5, msg=name)


def test_both_collections_are_in_use() -> None:
    """The random configurations have each kind of table, or the tests here would prove little."""
    config = random_config(0)
    layout = Layout(config)
    assert layout.collection_of["user"] == "request_bags"
    assert layout.collection_of["tag"] == "candidate_bags"
    assert layout.collection_of["item"] == f"sequences_{config.tables['item'].dim}"
    assert layout.collection_of["both"] == f"sequences_{config.tables['both'].dim}"


def test_a_view_reads_its_features_only_and_shares_their_tables() -> None:
    config = random_config(0)
    lookup = PlainLookup(Layout(config))
    batch = collate(config, random_requests(config, 6, 0))
    view = lookup.only(["request.user_id", "candidate.tags"])
    assert set(view.tables) == {"user", "tag"}
    rows, expected = view(batch), lookup(batch)
    assert rows.keys() == {"request.user_id", "candidate.tags"}
    for key, value in rows.items():
        assert torch.equal(value, expected[key])
    for name, table in view.tables.items():
        assert table.weight.data_ptr() == lookup.tables[name].weight.data_ptr()
    assert view.state_dict().keys() < lookup.state_dict().keys()


def test_the_tables_have_a_row_for_absent_ids() -> None:
    config = random_config(0)
    lookup = PlainLookup(Layout(config))
    for name, table in lookup.tables.items():
        assert table.num_embeddings == config.tables[name].rows + 1
        bound = table.num_embeddings**-0.5
        assert table.weight.abs().max() <= bound
        assert table.weight.std() > 0.3 * bound


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_pool(pooling: str) -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    pooled = pool(rows, torch.tensor([2, 0, 1]), pooling)
    first = [2.0, 3.0] if pooling == "mean" else [4.0, 6.0]
    assert pooled.tolist() == [first, [0.0, 0.0], [5.0, 6.0]]
    assert pool(rows[:0], torch.zeros(0, dtype=torch.long), pooling).shape == (0, 2)

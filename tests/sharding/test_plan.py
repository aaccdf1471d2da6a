"""The planner's plan under the configuration's constraints."""

import json
from typing import Any

import pytest
import torch

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.errors import UserError
from recsys.model.lookup import ShardedLookup
from recsys.model.unified import build_model
from recsys.sharding.plan import make_plan, plan_document, planner_constraints
from recsys.training.ranks import start_ranks
from tests.model.requests import random_config
from tests.training.conftest import two_ranks  # noqa: F401 - a fixture
from tests.two_ranks import TwoRanks

CPU = torch.device("cpu")


def plan_of(config: Config, world: int = 1) -> dict[str, Any]:
    model = build_model(config, ShardedLookup(Layout(config), device="meta"))
    return plan_document(make_plan(model, config, world, CPU))


@pytest.mark.parametrize("seed", range(3))
def test_every_table_is_in_the_plan_and_none_is_data_parallel(seed: int) -> None:
    config = random_config(seed)
    with start_ranks(60):
        document = plan_of(config)
    assert set(document) == {"tables"}
    assert set(document["tables"]) == set(config.tables)
    for name, table in document["tables"].items():
        assert table["sharding_type"] in ("table_wise", "row_wise")
        assert table["compute_kernel"] == "fused"
        assert table["ranks"] == [0]
        # The shards tile the table.
        rows, dim = config.tables[name].rows + 1, config.tables[name].dim
        assert sum(h * w for h, w in (s["sizes"] for s in table["shards"])) == rows * dim
        assert all("rank:0" in shard["placement"] for shard in table["shards"])
    assert json.loads(json.dumps(document)) == document


def test_constraints_are_respected() -> None:
    types = {"user": "column_wise", "item": "row_wise", "both": "table_wise", "tag": "table_wise"}
    config = random_config(
        0,
        sharding={"constraints": {table: {"types": [kind]} for table, kind in types.items()}},
    )
    with start_ranks(60):
        tables = plan_of(config)["tables"]
    for table, kind in types.items():
        assert tables[table]["sharding_type"] == kind


def test_constraints_by_device() -> None:
    config = random_config(0, sharding={"constraints": {"tag": {"kernels": ["fused_uvm"]}}})
    on_cpu, on_cuda = planner_constraints(config, "cpu"), planner_constraints(config, "cuda")
    assert set(on_cpu) == set(on_cuda) == set(config.tables)
    for found in (on_cpu, on_cuda):
        for table, constraint in found.items():
            assert "data_parallel" not in constraint.sharding_types
            expected = ["fused_uvm"] if table == "tag" else ["fused"]
            assert constraint.compute_kernels == expected
    # gloo refuses row-wise bags.
    assert on_cpu["user"].sharding_types == ["table_wise"]
    assert on_cpu["item"].sharding_types == ["table_wise", "row_wise"]
    assert "table_row_wise" in on_cuda["user"].sharding_types


def test_a_plan_that_is_impossible() -> None:
    huge = {name: {"rows": 10**12, "dim": 128} for name in random_config(0).tables}
    config = random_config(0, tables=huge)
    with start_ranks(60), pytest.raises(UserError) as caught:
        plan_of(config)
    message = str(caught.value)
    assert message.startswith("sharding: no plan fits 1 cpu ranks: ")
    assert "\n" not in message


def test_constraints_that_no_rank_can_meet() -> None:
    constraints = {"constraints": {"user": {"kernels": ["fused_uvm_caching"]}}}
    config = random_config(0, sharding=constraints)  # caching is for GPUs
    with start_ranks(60), pytest.raises(UserError, match=r"sharding: no plan fits 1 cpu ranks: "):
        plan_of(config)


def plan_as_a_rank(seed: int) -> dict[str, Any]:
    config = random_config(seed)
    with start_ranks(60) as ranks:
        return plan_of(config, ranks.world)


def test_two_ranks_have_one_plan_that_uses_both(two_ranks: TwoRanks) -> None:  # noqa: F811
    first, second = two_ranks.run(plan_as_a_rank, 0)
    assert first == second
    assert set(first["tables"]) == set(random_config(0).tables)
    used = {rank for table in first["tables"].values() for rank in table["ranks"]}
    assert used == {0, 1}

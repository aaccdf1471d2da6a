"""plan.json: there and back, and files that do not fit."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.errors import UserError
from recsys.model.lookup import ShardedLookup
from recsys.model.unified import build_model
from recsys.sharding.document import PlanDocument, check_plan, read_plan, sharding_plan
from recsys.sharding.plan import plan_tables
from recsys.sharding.topology import parse_topology
from recsys.sharding.workload import assume
from tests.model.requests import random_config

CONSTRAINTS = {
    "user": {"types": ["column_wise"], "min_partition": 4},
    "item": {"types": ["row_wise"]},
    "both": {"types": ["row_wise"], "kernels": ["fused_uvm_caching"], "cache_load_factor": 0.25},
}


def config_with(constraints: dict[str, Any]) -> Config:
    document = random_config(0).model_dump(mode="json", by_alias=True)
    document["tables"]["user"]["dim"] = 8
    return random_config(0, tables=document["tables"], sharding={"constraints": constraints})


@pytest.fixture(scope="module")
def config() -> Config:
    return config_with(CONSTRAINTS)


@pytest.fixture(scope="module")
def plan(config: Config) -> PlanDocument:
    return plan_tables(config, parse_topology("2x2xH100"), assume(config)).document


def test_what_a_plan_says(plan: PlanDocument, config: Config) -> None:
    document = plan.dump()
    assert PlanDocument.model_validate(json.loads(json.dumps(document))) == plan
    assert (plan.world, plan.ranks_per_node, plan.device) == (4, 2, "cuda")
    assert plan.constraints == CONSTRAINTS
    assert list(plan.tables) == list(config.tables)
    assert plan.tables["item"].ranks == (0, 1, 2, 3)
    assert plan.tables["both"].cache_load_factor == 0.25
    assert [shard.sizes[1] for shard in plan.tables["user"].shards] == [4, 4]


def test_torchrec_gets_what_the_planner_chose(plan: PlanDocument, config: Config) -> None:
    found = sharding_plan(plan, build_model(config, ShardedLookup(Layout(config), device="meta")))
    tables: dict[str, Any] = {}
    for module in found.plan.values():
        tables |= module  # type: ignore[arg-type]
    assert set(tables) == set(config.tables)
    for name, table in plan.tables.items():
        got = tables[name]
        assert got.sharding_type == table.sharding_type
        assert got.compute_kernel == table.compute_kernel
        assert tuple(got.ranks) == table.ranks
        shards = got.sharding_spec.shards
        assert [tuple(s.shard_offsets) for s in shards] == [s.offsets for s in table.shards]
        # The device of a rank is its number on its host.
        assert [str(s.placement) for s in shards] == [
            f"rank:{s.rank}/cuda:{s.rank % 2}" for s in table.shards
        ]
    assert tables["both"].cache_params.load_factor == 0.25
    assert tables["item"].cache_params is None


def changed(plan: PlanDocument, change: Any) -> PlanDocument:
    document = copy.deepcopy(plan.dump())
    change(document)
    return PlanDocument.model_validate(document)


def swap_rows(document: dict[str, Any]) -> None:
    shards = document["tables"]["item"]["shards"]
    shards[0]["rank"], shards[1]["rank"] = 1, 0
    document["tables"]["item"]["ranks"] = [1, 0, 2, 3]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d["tables"].pop("tag"), ("tables.tag: missing; make a plan of this",)),
        (
            lambda d: d["tables"].update(tags=d["tables"]["tag"]),
            ("tables.tags: the configuration has no such table; did you mean tag?",),
        ),
        (
            lambda d: d["tables"]["item"].update(sharding_type="table_row_wise"),
            ("tables.item: table_row_wise with fused is impossible on cuda; possible: table_wise",),
        ),
        (
            lambda d: d["tables"]["tag"]["shards"][0].update(rank=4),
            ("tables.tag: has a shard on rank 4, but there are 4 ranks",),
        ),
        (
            lambda d: d["tables"]["item"]["shards"].pop(),
            ("tables.item: row_wise: its 3 shards do not cover",),
        ),
        (
            lambda d: d["tables"]["item"].update(ranks=[0, 1, 2, 2]),
            ("tables.item: row_wise: ranks [0, 1, 2, 2] are not those of its shards",),
        ),
        (swap_rows, ("tables.item: row_wise: its shards are on ranks [1, 0, 2, 3]",)),
        (
            lambda d: d.update(ranks_per_node=4),
            ("ranks_per_node: 4, but the job has 2 on a host;",),
        ),
        (lambda d: d.update(device="cpu"), ("made for cpu, but the ranks are on cuda",)),
    ],
    ids=["missing", "unknown", "impossible", "rank", "shard", "ranks", "order", "host", "device"],
)
def test_a_plan_that_does_not_fit(plan: PlanDocument, config: Config, change, parts) -> None:
    check_plan(plan, config, 4, 2, "cuda", "plan.json")
    with pytest.raises(UserError) as caught:
        check_plan(changed(plan, change), config, 4, 2, "cuda", "plan.json")
    assert str(caught.value).startswith("plan.json: ")
    for part in parts:
        assert part in str(caught.value)


def test_a_plan_of_other_rows(plan: PlanDocument) -> None:
    with pytest.raises(UserError, match=r"plan.json: tables.user: column_wise: its 2 shards do no"):
        tables = random_config(0).model_dump(mode="json")["tables"]
        tables["user"] |= {"rows": 1000, "dim": 8}
        check_plan(plan, random_config(0, tables=tables), 4, 2, "cuda", "plan.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"world": 1}', "ranks_per_node: Field required"),
        ('{"world": 0, "ranks_per_node": 1, "device": "cpu", "tables": {}}', "world: Input should"),
    ],
)
def test_files_that_are_no_plans(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(UserError, match="cannot be read"):
        read_plan(path)
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)

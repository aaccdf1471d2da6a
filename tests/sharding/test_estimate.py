"""The report of a plan against what it is made of."""

import json
from typing import Any

import pytest

from recsys.config import Config
from recsys.sharding.estimate import estimate
from recsys.sharding.plan import Planned, plan_tables
from recsys.sharding.topology import parse_topology
from recsys.sharding.workload import assume
from tests.model.requests import random_config


def planned_for(config: Config, topology: str) -> Planned:
    return plan_tables(config, parse_topology(topology), assume(config))


@pytest.fixture(scope="module", params=["1x2xcpu", "2x2xH100"])
def planned(request: pytest.FixtureRequest) -> Planned:
    types = {"item": {"types": ["row_wise"]}}
    return planned_for(random_config(0, sharding={"constraints": types}), request.param)


@pytest.fixture(scope="module")
def report(planned: Planned) -> dict[str, Any]:
    return estimate(planned)


def test_the_report_is_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_ranks_add_up_to_tables(planned: Planned, report: dict[str, Any]) -> None:
    tables, ranks = report["tables"], report["ranks"]
    assert len(ranks) == planned.cluster.world
    whole = sum(table["weight_bytes"] + table["optimizer_bytes"] for table in tables.values())
    assert sum(rank["table_bytes"] for rank in ranks) == whole
    assert report["totals"]["weight_bytes"] + report["totals"]["optimizer_bytes"] == whole
    assert sum(r["shards"] for r in ranks) == sum(table["shards"] for table in tables.values())
    for rank in ranks:
        assert rank["total_ms"] == pytest.approx(rank["lookup_ms"] + rank["communication_ms"])
        for memory in ("hbm", "ddr"):
            parts = [rank[f"{memory}_{what}"] for what in ("used", "reserved", "free")]
            assert sum(parts) == rank[f"{memory}_total"]
            assert min(parts) >= 0


def test_a_table_is_as_configured(planned: Planned, report: dict[str, Any]) -> None:
    for name, table in report["tables"].items():
        own = planned.config.tables[name]
        assert table["rows"] == own.rows + 1
        assert table["weight_bytes"] == (own.rows + 1) * own.dim * 4
        assert table["optimizer_bytes"] == (own.rows + 1) * 4  # row-wise Adagrad
    lookups = report["tables"]["item"]["lookups_per_rank"]
    lengths = planned.workload
    assert lookups == lengths.requests * (lengths.candidates + lengths.history)


def test_what_binds(report: dict[str, Any]) -> None:
    slowest = max(report["ranks"], key=lambda rank: rank["total_ms"])
    assert report["step_ms"] == slowest["total_ms"]
    assert report["binds"]["time"]["rank"] == slowest["rank"]
    mean = sum(rank["total_ms"] for rank in report["ranks"]) / len(report["ranks"])
    assert report["imbalance"]["time"] == pytest.approx(slowest["total_ms"] / mean)
    memory = report["binds"]["memory"]
    assert memory["what"] == ("ddr" if report["topology"]["device"]["compute"] == "cpu" else "hbm")
    assert 0 < memory["used_of_usable"] < 1


def test_one_large_table_binds() -> None:
    tables = random_config(0).model_dump(mode="json")["tables"]
    tables["tag"] |= {"rows": 10**9, "dim": 16}
    config = random_config(
        0, tables=tables, sharding={"constraints": {"*": {"types": ["table_wise"]}}}
    )
    report = estimate(planned_for(config, "1x2xH200"))
    memory = report["binds"]["memory"]
    assert memory["table"] == "tag"
    assert memory["rank"] == report["tables"]["tag"]["ranks"][0]
    assert memory["share_of_rank"] > 0.99
    assert report["imbalance"]["memory"] == pytest.approx(2, rel=0.01)


def test_optimizer_state_is_kept_once_a_column_shard() -> None:
    tables = random_config(0).model_dump(mode="json")["tables"]
    tables["user"]["dim"] = 8
    own = {"types": ["column_wise"], "min_partition": 4}
    config = random_config(0, tables=tables, sharding={"constraints": {"user": own}})
    report = estimate(planned_for(config, "1x2xcpu"))
    assert report["tables"]["user"]["optimizer_bytes"] == 2 * (tables["user"]["rows"] + 1) * 4

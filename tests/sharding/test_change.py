"""Changes that make tables fit, each tried by planning."""

from typing import Any

import pytest
import yaml

from recsys.config import Config, parse_config
from recsys.sharding.change import all_constraints, changes, search
from recsys.sharding.inquiry import inquire, what_if
from recsys.sharding.plan import plan_tables
from recsys.sharding.show import show_constraints
from recsys.sharding.topology import Cluster, parse_topology
from recsys.sharding.workload import assume
from tests.model.requests import random_config


def config_of(gib: float, **changes: Any) -> Config:
    """Three tables of sequences, of `gib` GiB each in fp32."""
    tables = random_config(0).model_dump(mode="json")["tables"]
    for name in ("item", "action", "query"):
        tables[name] |= {"rows": round(gib * 2**30 / 64 / 4), "dim": 64}
    return random_config(0, tables=tables, **changes)


def outcomes(config: Config, cluster: Cluster) -> dict[str, Any]:
    return {o.change.name: o for o in search(config, cluster, assume(config))}


def test_what_fits_is_shown_by_ranks_and_then_by_time() -> None:
    config = config_of(60)  # 180 GiB; two H100 have 134 for tables
    report = inquire(config, parse_topology("1x2xH100"))
    assert not report["fits"]
    assert "the tables need at least 183 GiB of device memory (HBM)" in report["reason"]
    assert "2 ranks have 134 GiB for them" in report["reason"]
    changes = report["changes"]
    assert [c["fits"] for c in changes] == sorted((c["fits"] for c in changes), reverse=True)
    fitting = [c for c in changes if c["fits"]]
    order = [(c["world"], c["step_ms"]) for c in fitting]
    assert order == sorted(order)
    names = {c["change"]: c for c in changes}
    assert names["fp16 tables"]["fits"]
    assert names["fp16 tables"]["dtypes"]["item"] == "fp16"
    assert names["4 ranks"]["fits"]
    assert not names["column-wise allowed"]["fits"]  # cutting does not shrink anything
    # With fp16 alone, both together need not be tried; nor more ranks than do.
    assert not any("and UVM" in name for name in names)
    assert "8 ranks" not in names


def test_a_narrowest_column_shard_is_for_changes_that_cut_columns() -> None:
    config = config_of(60, sharding={"constraints": {"item": {"min_partition": 8}}})
    found = {each.name: each.config for each in changes(config, parse_topology("1x2xH100"))}
    columns = found["column-wise allowed"].sharding.constraint_of("item")
    assert "column_wise" in (columns.types or ())
    assert columns.min_partition == 8


def test_caching_takes_the_largest_load_factor_that_fits() -> None:
    found = outcomes(config_of(60), parse_topology("1x1xH100"))
    tried = {name: o for name, o in found.items() if name.startswith("UVM caching")}
    fits = [name for name, o in tried.items() if o.planned]
    assert len(fits) == 1
    assert float(fits[0].split()[-1]) == min(float(name.split()[-1]) for name in tried)
    cached = tried[fits[0]].document()["constraints"]
    assert cached
    assert all(c["kernels"] == ["fused_uvm_caching"] for c in cached.values())


@pytest.mark.parametrize("name", ["UVM", "UVM caching, load factor 0.2"])
def test_what_is_to_be_pasted_makes_it_fit(name: str) -> None:
    config, cluster = config_of(60), parse_topology("1x1xH100")
    text = show_constraints(outcomes(config, cluster)[name].document()["constraints"])
    pasted = {**config.model_dump(mode="json", by_alias=True), **yaml.safe_load(text)}
    planned = plan_tables(parse_config(pasted, "pasted"), cluster, assume(config))
    kinds = {table.compute_kernel for table in planned.document.tables.values()}
    assert kinds == {"fused", "fused_uvm_caching" if "caching" in name else "fused_uvm"}


def test_column_wise_where_a_table_is_too_large_for_a_rank() -> None:
    """Bags on a CPU may not be cut by rows."""
    tables = random_config(0).model_dump(mode="json")["tables"]
    tables["topic"] |= {"rows": 2**28, "dim": 64}  # 64 GiB; a rank has 54 for tables
    config = random_config(0, tables=tables)
    report = inquire(config, parse_topology("1x2xcpu"))
    assert "table topic needs" in report["reason"]
    assert (
        "of host memory (DDR) on one rank even by the most even of table_wise" in report["reason"]
    )
    best = report["changes"][0]
    names = {c["change"]: c["fits"] for c in report["changes"]}
    assert names["column-wise allowed"]
    assert names["fp16 tables"]
    assert not names["4 ranks"]  # a host's memory a rank stays the same
    assert best["fits"]
    columns = next(c for c in report["changes"] if c["change"] == "column-wise allowed")
    assert columns["constraints"]["topic"]["min_partition"] < 64


def test_row_wise_where_it_was_not_allowed() -> None:
    only = {"constraints": {"*": {"types": ["table_wise"]}}}
    found = outcomes(config_of(70, sharding=only), parse_topology("1x4xH100"))
    assert found["row-wise allowed"].planned
    assert "row-wise allowed" not in outcomes(config_of(70), parse_topology("1x2xH100"))


def test_nothing_fits_and_it_says_so() -> None:
    config = config_of(100_000)
    found = outcomes(config, parse_topology("1x1xL40S"))
    assert not any(outcome.planned for outcome in found.values())
    assert all(outcome.reason for outcome in found.values())
    assert {"64 ranks", "UVM caching, load factor 0.01"} <= set(found)


def test_all_constraints_make_the_same_plan() -> None:
    config, cluster = random_config(3), parse_topology("1x2xcpu")
    first = plan_tables(config, cluster, assume(config))
    sharding = {"constraints": all_constraints(first)}
    again = plan_tables(random_config(3, sharding=sharding), cluster, assume(config))
    for name, table in first.document.tables.items():
        assert again.document.tables[name].sharding_type == table.sharding_type


def test_other_clusters() -> None:
    assert [c.label for c in what_if(parse_topology("2x8xH100"))] == [
        "1x1xH100", "1x8xH100", "2x8xH100", "8x8xH100", "32x8xH100",
    ]  # fmt: skip
    config = config_of(60)
    some = [parse_topology(text) for text in ("1x1xH100", "1x4xH100")]
    report = inquire(config, parse_topology("1x4xH100"), others=some)
    first, second = report["what_if"]
    assert (first["fits"], second["fits"]) == (False, True)
    assert first["step_ms"] is None
    assert "no plan fits 1x1xH100" in first["reason"]
    assert second["step_ms"] == report["step_ms"]
    assert second["imbalance"] == report["imbalance"]

"""Plans that TorchRec's planner makes."""

import os
import subprocess
import sys
from typing import Any

import pytest

from recsys.config import Config, load_config
from recsys.errors import UserError
from recsys.sharding.document import PlanDocument
from recsys.sharding.plan import DoesNotFitError, plan_tables
from recsys.sharding.topology import parse_topology
from recsys.sharding.workload import assume
from tests.model.requests import random_config


def plan_of(config: Config, topology: str = "1x1xcpu") -> PlanDocument:
    return plan_tables(config, parse_topology(topology), assume(config)).document


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("topology", ["1x1xcpu", "1x2xcpu", "1x4xH100"])
def test_every_table_is_in_the_plan_and_none_is_data_parallel(seed: int, topology: str) -> None:
    config = random_config(seed)
    plan = plan_of(config, topology)
    assert set(plan.tables) == set(config.tables)
    for name, table in plan.tables.items():
        assert table.sharding_type in ("table_wise", "row_wise", "table_row_wise")
        assert table.compute_kernel == "fused"
        rows, dim = config.tables[name].rows + 1, config.tables[name].dim
        assert sum(h * w for h, w in (shard.sizes for shard in table.shards)) == rows * dim
    used = {rank for table in plan.tables.values() for rank in table.ranks}
    assert used == set(range(plan.world))


def test_constraints_are_respected() -> None:
    types = {"user": "column_wise", "item": "row_wise", "both": "table_wise", "tag": "table_wise"}
    config = random_config(
        0,
        sharding={"constraints": {table: {"types": [kind]} for table, kind in types.items()}},
    )
    plan = plan_of(config, "1x2xcpu")
    for table, kind in types.items():
        assert plan.tables[table].sharding_type == kind


def test_tables_that_are_too_large() -> None:
    huge = {name: {"rows": 10**11, "dim": 128} for name in random_config(0).tables}
    with pytest.raises(DoesNotFitError) as caught:
        plan_of(random_config(0, tables=huge), "1x2xcpu")
    message = str(caught.value)
    assert message.startswith("sharding: no plan fits 1x2xcpu (2 ranks): table ")
    assert "\n" not in message
    assert "of host memory (DDR) on one rank even by the most even of table_wise" in message
    assert "7 tables" not in message
    assert "2 ranks have 109 GiB for them" in message  # 128 GiB less 15 %


def test_constraints_that_no_rank_can_meet() -> None:
    constraints = {"constraints": {"user": {"kernels": ["fused_uvm_caching"]}}}
    with pytest.raises(UserError, match=r"sharding.constraints.user: .* impossible on cpu"):
        plan_of(random_config(0, sharding=constraints))
    assert plan_of(random_config(0, sharding=constraints), "1x1xH100")


def test_a_plan_does_not_depend_on_the_hashes_of_strings() -> None:
    """TorchRec goes through sets of strings: in each process they have another order."""
    script = (
        "import json\n"
        "from tests.sharding.test_plan import plan_of\n"
        "from tests.model.requests import random_config\n"
        "print(json.dumps(plan_of(random_config(4), '1x4xH100').dump()))\n"
    )
    plans = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        plans.add(done.stdout)
    assert len(plans) == 1


def times(config: Config) -> dict[str, Any]:
    found = plan_tables(config, parse_topology("1x2xH100"), assume(config))
    return {o.name: sum(s.perf.total for s in o.shards) for o in found.options}  # type: ignore[union-attr]


def test_estimates_follow_the_lengths() -> None:
    """Three times the ids of one table: its time grows, that of the others does not."""
    few, many = (
        times(random_config(0, sharding={"assumed": {"ids": {"topics": count}}}))
        for count in (10, 30)
    )
    assert many["topic"] > 1.5 * few["topic"]
    assert {name: t for name, t in many.items() if name != "topic"} == {
        name: t for name, t in few.items() if name != "topic"
    }


def test_ten_billion_rows_are_planned_and_nothing_is_allocated() -> None:
    script = (
        "import resource\n"
        "from tests.sharding.test_plan import load_config, plan_of\n"
        "plan = plan_of(load_config('configs/ten_billion_rows.yaml'), '8x8xH100')\n"
        "assert plan.world == 64\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    config = load_config("configs/ten_billion_rows.yaml")
    assert sum(table.rows for table in config.tables.values()) >= 10_000_000_000
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert int(done.stdout) < 1_500_000  # KiB, of a process that has loaded torch


def test_fp16_halves_weights_and_not_the_exchange() -> None:
    config = random_config(0)
    tables = config.model_dump(mode="json")["tables"]
    half = random_config(0, tables={n: {**t, "dtype": "fp16"} for n, t in tables.items()})
    cluster = parse_topology("1x2xH100")
    of_full, of_half = (plan_tables(c, cluster, assume(c)) for c in (config, half))
    for full, reduced in zip(of_full.planner.options(), of_half.planner.options(), strict=True):
        assert (full.name, full.sharding_type) == (reduced.name, reduced.sharding_type)
        assert reduced.total_storage.hbm < full.total_storage.hbm
        for a, b in zip(full.shards, reduced.shards, strict=True):
            assert b.perf.fwd_comms == pytest.approx(a.perf.fwd_comms)  # type: ignore[union-attr]
            assert b.perf.fwd_compute < a.perf.fwd_compute  # type: ignore[union-attr]

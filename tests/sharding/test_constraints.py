"""What the planner may choose from."""

import pytest

from recsys.config import Config
from recsys.errors import UserError
from recsys.sharding.constraints import planner_constraints, possible
from recsys.sharding.workload import assume
from tests.model.requests import random_config


def constraints_of(config: Config, compute: str):
    return planner_constraints(config, compute, assume(config))


def test_what_each_device_can_do() -> None:
    for collection in ("request_bags", "sequences_8"):
        for compute in ("cpu", "cuda"):
            assert "data_parallel" not in possible(collection, compute)
    on_cpu = ("table_wise", "column_wise", "table_column_wise")
    assert possible("request_bags", "cpu") == {kind: ["fused"] for kind in on_cpu}
    assert set(possible("sequences_8", "cpu")) == {"table_wise", "column_wise", "row_wise"}
    assert possible("request_bags", "cuda")["grid_shard"] == [
        "fused", "fused_uvm", "fused_uvm_caching",
    ]  # fmt: skip


def test_defaults_by_device() -> None:
    config = random_config(0)
    on_cpu, on_cuda = constraints_of(config, "cpu"), constraints_of(config, "cuda")
    assert set(on_cpu) == set(on_cuda) == set(config.tables)
    assert on_cpu["user"].sharding_types == ["table_wise"]  # gloo refuses row-wise bags
    assert on_cpu["item"].sharding_types == ["table_wise", "row_wise"]
    assert "table_row_wise" in on_cuda["user"].sharding_types
    assert all(found.compute_kernels == ["fused"] for found in on_cuda.values())


def test_all_keys_of_a_constraint_reach_the_planner() -> None:
    own = {
        "types": ["column_wise"],
        "kernels": ["fused", "fused_uvm_caching"],
        "min_partition": 4,
        "cache_load_factor": 0.3,
    }
    config = random_config(0, sharding={"constraints": {"user": own}})
    found = constraints_of(config, "cuda")["user"]
    assert found.sharding_types == ["column_wise"]
    assert found.compute_kernels == ["fused", "fused_uvm_caching"]
    assert found.min_partition == 4
    assert found.cache_params.load_factor == 0.3


def test_a_name_wins_over_a_pattern_and_the_first_pattern_over_others() -> None:
    patterns = {
        "t*": {"types": ["table_wise"]},
        "to*": {"types": ["row_wise"]},
        "tag": {"types": ["table_row_wise"]},
    }
    found = constraints_of(random_config(0, sharding={"constraints": patterns}), "cuda")
    assert found["topic"].sharding_types == ["table_wise"]
    assert found["tag"].sharding_types == ["table_row_wise"]
    assert len(found["user"].sharding_types) > 1


@pytest.mark.parametrize(
    ("own", "parts"),
    [
        ({"types": ["row_wise"]}, ("types ['row_wise']: impossible on cpu for a table of bags",)),
        ({"kernels": ["fused_uvm"]}, ("the default types and kernels ['fused_uvm']",)),
        (
            {"types": ["table_wise", "row_wise"], "kernels": ["fused_uvm_caching"]},
            ("possible: table_wise with fused; column_wise with fused",),
        ),
    ],
)
def test_a_combination_that_is_impossible_lists_what_is_possible(own, parts) -> None:
    config = random_config(0, sharding={"constraints": {"user": own}})
    with pytest.raises(UserError) as caught:
        constraints_of(config, "cpu")
    assert str(caught.value).startswith("sharding.constraints.user: ")
    for part in parts:
        assert part in str(caught.value)
    if own.get("types") == ["row_wise"]:
        constraints_of(config, "cuda")  # there it can


def test_a_partition_wider_than_the_table() -> None:
    own = {"types": ["column_wise"], "min_partition": 64}
    config = random_config(0, sharding={"constraints": {"user": own}})
    with pytest.raises(UserError, match=r"sharding.constraints.user.min_partition: 64: the table"):
        constraints_of(config, "cuda")


def test_bf16_is_for_gpus() -> None:
    tables = random_config(0).model_dump(mode="json")["tables"]
    tables["user"]["dtype"] = "bf16"
    config = random_config(0, tables=tables)
    with pytest.raises(UserError, match=r"tables.user.dtype: bf16: .* use fp16 or fp32"):
        constraints_of(config, "cpu")
    constraints_of(config, "cuda")


def test_lengths_by_collection() -> None:
    """A pooled request feature runs R times, a candidate's N times, a sequence's R times."""
    assumed = {"candidates": 4, "history": 3, "ids": {"topics": 2, "tags": 5, "more_tags": 1.5}}
    config = random_config(1, sharding={"assumed": assumed}, training={"batch_candidates": 40})
    found = constraints_of(config, "cpu")

    def runs(table: str) -> list[tuple[int, float]]:
        constraint = found[table]
        return list(zip(constraint.batch_sizes, constraint.pooling_factors, strict=True))

    assert runs("topic") == [(10, 2)]
    assert runs("tag") == [(40, 5)]
    # item: of candidates, then of the history, both as sequences of the request.
    assert runs("item") == [(10, 4), (10, min(3, config.features.history.length))]
    assert runs("both") == [(10, 1), (10, 6)]

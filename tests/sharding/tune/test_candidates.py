"""Searches of plans, and the choice of those to measure."""

from itertools import pairwise

import pytest

from recsys.sharding.plan import plan_tables
from recsys.sharding.topology import parse_topology
from recsys.sharding.tune.candidates import (
    ALIKE,
    Candidate,
    busiest,
    choose,
    distinct,
    division,
    search,
    sweep,
)
from recsys.sharding.workload import assume
from tests.model.requests import random_config

CLUSTER = parse_topology("1x2xcpu")


@pytest.fixture(scope="module")
def found() -> list[Candidate]:
    config = random_config(0)
    return search(config, CLUSTER, assume(config))


def test_the_default_comes_first_and_the_others_by_estimate(found: list[Candidate]) -> None:
    config = random_config(0)
    default = plan_tables(config, CLUSTER, assume(config)).document
    assert found[0].origin == "default"
    assert found[0].plan.tables == default.tables
    estimates = [candidate.step_ms for candidate in found[1:]]
    assert estimates == sorted(estimates)
    assert len(found) > 20


def test_no_two_plans_divide_the_tables_alike(found: list[Candidate]) -> None:
    divisions = [division(candidate.planned.options) for candidate in found]
    assert len(set(divisions)) == len(divisions)
    kinds = {t.sharding_type for candidate in found for t in candidate.plan.tables.values()}
    assert kinds == {"table_wise", "row_wise", "column_wise", "table_column_wise"}


def test_what_the_configuration_fixes_is_not_varied() -> None:
    own = {"item": {"types": ["row_wise"]}, "u*": {"types": ["column_wise"], "min_partition": 4}}
    config = random_config(0, sharding={"constraints": own})
    for candidate in search(config, CLUSTER, assume(config)):
        assert candidate.plan.tables["item"].sharding_type == "row_wise"
        assert candidate.plan.tables["user"].sharding_type == "column_wise"


def test_a_narrowest_column_shard_is_for_searches_that_cut_columns() -> None:
    own = {"item": {"min_partition": 4}}
    config = random_config(0, sharding={"constraints": own})
    searches = {name: changed for name, changed, _ in sweep(config, CLUSTER, assume(config))}
    widths = {
        name: changed.sharding.constraint_of("item").min_partition
        for name, changed in searches.items()
    }
    assert widths["all column_wise where possible"] == 4
    assert widths["all row_wise where possible"] is None


def test_the_busiest_tables_are_read_most() -> None:
    config = random_config(0, sharding={"assumed": {"ids": {"topics": 10_000}}})
    assert busiest(config, assume(config))[0] == "topic"


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_default_the_best_and_some_of_the_rest_are_measured(
    found: list[Candidate], count: int
) -> None:
    chosen = choose(found, count)
    assert len(chosen) == count
    assert chosen[0] is found[0]
    estimates = [candidate.step_ms for candidate in chosen[1:]]
    # The best are the first that are not alike; the last is the slowest of all that are not.
    apart = distinct(found[1:])
    assert chosen[1 : 1 + count // 2] == apart[: count // 2]
    assert all(b >= ALIKE * a for a, b in pairwise(estimates))
    if count > 2:
        assert chosen[-1] is apart[-1]
    assert choose(found[:3], 8) == found[:3]

"""Constraints of tables and patterns."""

from typing import Any

import pytest

from recsys.config import Config, parse_config
from recsys.errors import UserError
from tests.config.documents import document


def config(**sharding: Any) -> Config:
    return parse_config(document(("sharding", sharding)), "test.yaml")


def test_a_name_wins_over_patterns() -> None:
    one = {"types": ["row_wise"]}
    found = config(constraints={"v*": {"types": ["table_wise"]}, "video": one}).sharding
    assert found.constraint_of("video").types == ("row_wise",)
    assert found.constraint_of("user").types is None


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"vidio": {}}, "sharding.constraints.vidio: no such table; did you mean video?"),
        (
            {"author*": {}},
            "sharding.constraints.author*: matches no table; the tables are video, user, query",
        ),
        (
            {"video": {"types": ["data_parallel"]}},
            "sharding.constraints.video.types[0]: 'data_parallel': Input should be 'table_wise'",
        ),
        (
            {"video": {"types": ["row_wise"], "min_partition": 4}},
            "sharding.constraints.video: min_partition is for column_wise, grid_shard, table_colum",
        ),
        (
            {"video": {"cache_load_factor": 0.1}},
            "sharding.constraints.video: cache_load_factor is for fused_uvm_caching; add it to ker",
        ),
        (
            {"video": {"kernels": ["fused_uvm_caching"], "cache_load_factor": 1.5}},
            "sharding.constraints.video.cache_load_factor: 1.5: Input should be less than 1",
        ),
        ({"video": {"min_partition": 6}}, "sharding.constraints.video.min_partition: 6: Input sho"),
    ],
)
def test_constraints_that_are_wrong(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config(constraints=constraints)
    assert str(caught.value).startswith(f"test.yaml: {message}")


def test_assumed_ids_are_of_features_with_pooling() -> None:
    with pytest.raises(UserError, match=r"sharding.assumed.ids.video_id: no feature with pooling"):
        config(assumed={"ids": {"video_id": 3}})

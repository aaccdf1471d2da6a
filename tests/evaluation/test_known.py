"""Which users the train split knows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import Config
from recsys.evaluation.known import hashes, known_groups
from tests.config.documents import document


def config_of(root: Path, group: str | None, *changes: tuple) -> Config:
    return Config.model_validate(
        document(("data.root", str(root)), ("evaluation", {"group": group}), *changes)
    )


def write(root: Path, **options: bool) -> None:
    """Four requests in two row groups; a user of the request and an owner of each candidate."""
    (root / "train").mkdir(parents=True)
    owners = [["a"], ["b", "a"], [], ["c", None]]
    table = pa.table(
        {
            "request_id": [1, 2, 3, 4],
            "surface": ["main", "main", "search", "search"],
            "user_id": [7, -3, 7, 9],
            "candidates": [[{"owner": o} for o in each] for each in owners],
        }
    )
    pq.write_table(table, root / "train" / "part.parquet", row_group_size=2, **options)


@pytest.mark.parametrize("compliant", [True, False])
def test_groups_of_requests_and_of_candidates(tmp_path, compliant):
    """Whatever a writer calls the elements of a list: element, item, array."""
    write(tmp_path, use_compliant_nested_type=compliant)
    found = known_groups(config_of(tmp_path, "user_id"))
    assert found.tolist() == sorted(hashes(pa.array([7, -3, 9])).tolist())
    found = known_groups(config_of(tmp_path, "owner"))
    assert found.tolist() == sorted(hashes(pa.array(["a", "b", "c"])).tolist())


def test_a_surface_that_is_not_trained_is_not_known(tmp_path):
    write(tmp_path)
    found = known_groups(config_of(tmp_path, "user_id", ("data.surfaces", ["main"])))
    assert found.tolist() == sorted(hashes(pa.array([7, -3])).tolist())


def test_what_cannot_be_known(tmp_path):
    assert known_groups(config_of(tmp_path, "user_id")) is None
    write(tmp_path)
    assert known_groups(config_of(tmp_path, None)) is None
    assert known_groups(config_of(tmp_path, "nobody")) is None


def test_hashes_are_of_values_not_of_types():
    same = pa.array([3, 3], pa.int8()), pa.chunked_array([[3], [3]]).cast(pa.int64())
    assert len({*hashes(same[0]).tolist(), *hashes(same[1]).tolist()}) == 1
    text = pa.array(["x", "y"])
    assert np.array_equal(hashes(text), hashes(text.dictionary_encode()))

"""Golden vectors against encodings written out plainly."""

import pyarrow as pa
import pytest
import xxhash

from recsys.config import TableConfig
from recsys.data.encoding import TableEncoder, Vocabulary
from recsys.export.golden import rule
from tests.data.tables import splitmix64


def vectors(encoder: TableEncoder) -> dict[object, int]:
    return {each["id"]: each["row"] for each in rule(encoder)["golden"]}


def test_none():
    found = vectors(TableEncoder("t", TableConfig(rows=1000, dim=4), None))
    assert {found[0], found[999]} == {1, 1000}
    for unknown in (1000, -1, 2**62, -(2**63), None):
        assert found[unknown] == 0


def test_hash():
    found = vectors(TableEncoder("t", TableConfig(rows=97, dim=4, encode="hash"), None))
    assert found.pop(None) == 0
    assert len(found) > 10
    for value, row in found.items():
        if isinstance(value, str):
            assert row == 1 + xxhash.xxh64(value.encode()).intdigest() % 97
        else:
            assert row == 1 + splitmix64(value) % 97  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[5, 3, -9, 2**40], ["b", "日本", "a"]])
def test_vocab(ids: list):
    vocabulary = Vocabulary(pa.array(ids))
    config = TableConfig(rows=10, dim=4, encode="vocab")
    found = vectors(TableEncoder("t", config, vocabulary))
    for value, row in found.items():
        assert row == (ids.index(value) + 1 if value in ids else 0)
    assert set(ids) <= set(found) and None in found and len(found) > len(ids) + 3


def test_a_long_vocabulary_shows_its_ends():
    vocabulary = Vocabulary(pa.array(range(100, 5000)))
    config = TableConfig(rows=4900, dim=4, encode="vocab")
    found = vectors(TableEncoder("t", config, vocabulary))
    assert found[100] == 1 and found[4999] == 4900 and found[0] == 0
    assert len(found) < 40

"""Ids → rows, against plain code."""

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import TableConfig
from recsys.data.encoding import CHUNK, TableEncoder, Vocabulary
from recsys.data.faults import Place
from recsys.data.hashing import splitmix64, xxh64
from recsys.data.lookup import HashIndex, narrowest
from tests.data import tables

PLACE = Place("file", 0)
int64 = st.integers(-(2**63), 2**63 - 1)


def encode(encoder: TableEncoder, ids: pa.Array) -> list[int]:
    out = np.empty(len(ids), encoder.dtype)
    encoder.encode(ids, out, "column", PLACE)
    return out.tolist()


def table(rows: int, encode: str) -> TableConfig:
    return TableConfig(rows=rows, dim=4, encode=encode)


def test_hashes_are_the_published_ones() -> None:
    # SplitMix64 seeded with 0: the first outputs of the reference implementation.
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert splitmix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert xxh64(pa.array(["", "a", None])).tolist() == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0]


@given(st.lists(st.none() | int64, max_size=40), st.integers(1, 2**40))
def test_hash_of_integers(ids: list, rows: int) -> None:
    found = encode(TableEncoder("t", table(rows, "hash"), None), pa.array(ids, pa.int64()))
    assert found == [0 if i is None else 1 + tables.splitmix64(i) % rows for i in ids]


def test_hash_of_strings_does_not_depend_on_how_they_are_stored() -> None:
    strings = ["a", None, "b", "a", "日本", ""]
    want = [0 if s is None else 1 + xxhash.xxh64_intdigest(s.encode()) % 9 for s in strings]
    encoder = TableEncoder("t", table(9, "hash"), None)
    plain = pa.array(strings)
    for array in (plain, plain.cast(pa.large_string()), plain.dictionary_encode()):
        assert encode(encoder, array) == want
        assert encode(encoder, array[2:5]) == want[2:5]


@given(
    st.lists(int64, unique=True, max_size=30),
    st.lists(st.none() | int64, max_size=30),
    st.integers(1, 3),
)
def test_vocabulary_of_integers(known: list[int], others: list, step: int) -> None:
    # Sparse ids, and dense ones (the remainder keeps many equal to known ones).
    for limit in (2**63, 50):
        ids = list(dict.fromkeys(i % limit if limit == 50 else i for i in known))
        asked = [i if i is None or limit != 50 else i % 70 - 10 for i in [*others, *known, None]]
        asked = asked[::step]
        encoder = TableEncoder("t", table(30, "vocab"), Vocabulary(pa.array(ids, pa.int64())))
        want = [ids.index(i) + 1 if i in ids else 0 for i in asked]
        assert encode(encoder, pa.array(asked, pa.int64())) == want


def test_vocabulary_beyond_the_ends() -> None:
    encoder = TableEncoder("t", table(3, "vocab"), Vocabulary(pa.array([7, 5, 6])))
    ids = [4, 5, 6, 7, 8, -(2**63), 2**63 - 1, None]
    assert encode(encoder, pa.array(ids)) == [0, 2, 3, 1, 0, 0, 0, 0]
    low = TableEncoder("t", table(3, "vocab"), Vocabulary(pa.array([-(2**63), 3 - 2**63])))
    assert encode(low, pa.array([-(2**63), 3 - 2**63, 2**63 - 1, 0])) == [1, 2, 0, 0]


def test_vocabulary_of_strings() -> None:
    encoder = TableEncoder("t", table(9, "vocab"), Vocabulary(pa.array(["b", "a"])))
    assert encode(encoder, pa.array(["a", "b", "c", None, "a"])) == [2, 1, 0, 0, 2]
    assert encode(encoder, pa.array([], pa.string())) == []


def test_a_null_in_a_dictionary() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1]), pa.array(["a", None]))
    encoder = TableEncoder("t", table(9, "vocab"), Vocabulary(pa.array(["a"])))
    assert encode(encoder, array) == [1, 0, 0, 0]


@pytest.mark.parametrize("encode_as", ["none", "hash", "vocab"])
def test_more_ids_than_are_encoded_at_a_time(encode_as: str) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, CHUNK * 2 + 5)
    known = Vocabulary(pa.array(range(999, 499, -1))) if encode_as == "vocab" else None
    encoder = TableEncoder("t", table(1000, encode_as), known)
    want = {
        "none": lambda i: i + 1,
        "hash": lambda i: 1 + tables.splitmix64(i) % 1000,
        "vocab": lambda i: 1000 - i if i >= 500 else 0,
    }[encode_as]
    assert encode(encoder, pa.array(ids)) == [want(int(i)) for i in ids]


def test_no_ids() -> None:
    for rows in (10, 1000, 10**6, 10**10):
        encoder = TableEncoder("t", table(rows, "none"), None)
        assert encode(encoder, pa.array([], pa.int64())) == []
        assert encode(encoder, pa.array([None, None], pa.int64())) == [0, 0]
        assert encode(encoder, pa.array([rows - 1, None])) == [rows, 0]


def test_rows_are_held_in_the_narrowest_integers() -> None:
    assert [narrowest(n) for n in (255, 256, 65535, 65536, 2**31 - 1, 2**31)] == [
        np.uint8, np.uint16, np.uint16, np.int32, np.int32, np.int64,
    ]  # fmt: skip


def test_a_vocabulary_is_needed() -> None:
    with pytest.raises(ValueError, match="table t: encode is vocab, vocabulary None"):
        TableEncoder("t", table(3, "vocab"), None)


@given(st.lists(int64, unique=True, max_size=60), st.lists(int64, max_size=20))
def test_index(keys: list[int], others: list[int]) -> None:
    asked = [*keys, *others, 0]
    found = HashIndex(np.array(keys, dtype=np.int64)).rows(np.array(asked, dtype=np.int64))
    assert found.tolist() == [keys.index(k) + 1 if k in keys else 0 for k in asked]


def test_index_of_keys_that_share_a_slot() -> None:
    # These differ in their lowest bits after multiplication only, so all meet in slot 0.
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    keys = np.array([n * inverse % 2**64 for n in range(300)], dtype=np.uint64).view(np.int64)
    index = HashIndex(keys[:200])
    assert index.rows(keys).tolist() == [*range(1, 201), *[0] * 100]

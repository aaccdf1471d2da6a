"""How ids become table rows, for servers in any language: in words and in golden vectors."""

from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from recsys.data.encoding import TableEncoder
from recsys.data.faults import Place, UnknownIds

INTEGERS = (0, 1, 2, 7, 1_000, -1, 2**31, 2**62, 2**63 - 1, -(2**63))
STRINGS = ("", "a", "recsys", "Ünïcode", "日本", "with space", "x" * 100)
ENDS = 5  # ids of each end of a vocabulary

RULES = {
    "none": "row = id + 1 for 0 <= id < rows",
    "hash": {
        "integers": "row = 1 + splitmix64(id as uint64) mod rows; splitmix64: x += "
        "0x9E3779B97F4A7C15; x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; "
        "x *= 0x94D049BB133111EB; x ^= x >> 31, modulo 2^64",
        "strings": "row = 1 + xxHash64(UTF-8 bytes, seed 0) mod rows",
    },
    "vocab": "row = the position of the id in the vocabulary's file, from 1",
}
UNKNOWN = "null and every other id: row 0"


def rule(encoder: TableEncoder) -> dict[str, Any]:
    """An encoding as the manifest describes it; `rows` counts ids, row 0 is one more."""
    table = encoder.table
    found = {"encode": table.encode, "rows": table.rows, "rule": RULES[table.encode]}
    return {**found, "unknown": UNKNOWN, "golden": golden(encoder)}


def golden(encoder: TableEncoder) -> list[dict[str, Any]]:
    """`[{"id", "row"}]`: ids at the edges, ids that are unknown, null."""
    encode, vocabulary = encoder.table.encode, encoder.vocabulary
    found = []
    if vocabulary is not None:
        known = vocabulary.ids.to_pylist()
        ids = list(dict.fromkeys([*known[:ENDS], *known[-ENDS:]]))
        own = STRINGS if vocabulary.strings else INTEGERS
        found += _rows(encoder, [*ids, *(i for i in own if i not in ids), None])
        return found
    integers = [*INTEGERS]
    if encode == "none":
        integers += [encoder.table.rows - 1, encoder.table.rows]
    found += _rows(encoder, [*dict.fromkeys(integers), None])
    if encode == "hash":
        found += _rows(encoder, list(STRINGS))
    return found


def _rows(encoder: TableEncoder, ids: list[Any]) -> list[dict[str, Any]]:
    array = pa.array(ids)
    if not types.is_string(array.type):
        array = array.cast(pa.int64())
    out = np.zeros(len(array), dtype=encoder.dtype)
    encoder.encode(array, out, encoder.name, Place("golden", 0, unknown=UnknownIds()))
    return [{"id": i, "row": row} for i, row in zip(ids, out.tolist(), strict=True)]

"""What segments users by themselves: whether training knew them, and how long their history is."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.hashing import splitmix64, xxh64
from recsys.data.layout import Layout
from recsys.data.rowgroups import RowGroups
from recsys.data.schema import Projection
from recsys.data.splits import open_split
from recsys.errors import UserError
from recsys.evaluation.slices import HISTORY_LENGTH, KNOWN_GROUP


def known_groups(config: Config) -> NDArray[np.uint64] | None:
    """64 bits of each value of `evaluation.group` on the train split, sorted: 8 bytes a user.

    None without a group, or where the train split or its column is not there (any more).
    """
    name = config.evaluation.group
    if name is None:
        return None
    try:
        split = open_split(config, "train")
    except UserError:
        return None
    found, layout = np.zeros(0, np.uint64), Layout(config)
    own = all(name in schema.names for schema in split.schemas)
    extras = {"request_extras" if own else "candidate_extras": (name,)}
    with RowGroups(split, Projection(layout, (), labels=False, **extras)) as source:
        for number in range(len(split.row_groups)):
            table = source.table(number)
            if not own and "candidates" not in table.column_names:
                return None
            values = table[name] if own else _of_candidates(table["candidates"], name)
            found = np.union1d(found, hashes(pc.unique(values).drop_null()))
    return found


def segment_columns(
    batch: Batch, layout: Layout, known: NDArray[np.uint64] | None, group: Any
) -> dict[str, Any]:
    """`history_length` and `known_group` of each candidate, as far as they are known.

    Args:
        batch: N candidates.
        layout: of the batch.
        known: of `known_groups`.
        group: [N], the group of each candidate.
    """
    found: dict[str, Any] = {}
    if layout.history_length:
        lengths = batch.history_lengths[batch.request_index]
        found[HISTORY_LENGTH] = lengths.numpy().astype(np.int32)
    if known is not None:
        values = group.combine_chunks() if isinstance(group, pa.ChunkedArray) else group
        encoded = values.dictionary_encode()
        is_known = pa.array(np.isin(hashes(encoded.dictionary), known), pa.bool_())
        found[KNOWN_GROUP] = is_known.take(encoded.indices)
    return found


def hashes(values: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """64 bits for each value, none of them null; different for different integers."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_integer(values.type):
        return splitmix64(values.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64))
    return xxh64(values.cast(pa.string()))


def _of_candidates(lists: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pa.chunked_array([pc.struct_field(chunk.flatten(), name) for chunk in lists.chunks])

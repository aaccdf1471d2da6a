"""Which row of a table in one run is which in another."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import TableConfig
from recsys.data.encoding import Vocabulary


@dataclass(frozen=True)
class Rows:
    """Rows of the old table and the rows of the new one that are to take their weights."""

    old: np.ndarray
    new: np.ndarray
    why: str = ""  # why not all of them match


def match_rows(
    old: TableConfig,
    new: TableConfig,
    old_ids: Vocabulary | None = None,
    new_ids: Vocabulary | None = None,
) -> Rows:
    """Matches rows by the id that reads them; row 0, of absent and unknown ids, always.

    Under `encode: hash` an id's row depends on the number of rows: nothing matches if that changed.
    """
    unknown = np.zeros(1, dtype=np.int64)
    if "hash" in (old.encode, new.encode):
        if (old.encode, old.rows) == (new.encode, new.rows):
            every = np.arange(new.rows + 1)
            return Rows(every, every)
        if old.encode != new.encode:
            return Rows(unknown, unknown, f"encode was {old.encode} and is {new.encode}")
        return Rows(unknown, unknown, f"ids were hashed to {old.rows} rows, now to {new.rows}")
    before, after = _ids(old, old_ids), _ids(new, new_ids)
    if before.type != after.type:
        return Rows(unknown, unknown, f"ids were {before.type} and are {after.type}")
    found = pc.index_in(after, value_set=before)
    known = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False))
    rows = found.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    missing = len(after) - len(known)
    why = f"{missing} ids are new" if missing else ""
    return Rows(np.append(0, rows + 1), np.append(0, known + 1), why)


def _ids(table: TableConfig, vocabulary: Vocabulary | None) -> pa.Array:
    """The id of each row but row 0."""
    if vocabulary is None:
        return pa.array(np.arange(table.rows))
    ids = vocabulary.ids
    return ids.cast(pa.int64()) if pa.types.is_integer(ids.type) else ids.cast(pa.string())

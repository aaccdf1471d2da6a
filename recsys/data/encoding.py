"""Ids → rows of embedding tables. Row 0 is for an absent (null) or unknown id."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from recsys.config import TableConfig
from recsys.data.faults import Place
from recsys.data.hashing import splitmix64, xxh64
from recsys.data.layout import Layout
from recsys.errors import UserError

# A vocabulary of integers is a plain array if its ids are this dense; else a sorted one.
SPARSEST = 16
# Rows are kept in the narrowest of these that holds them.
DTYPES = tuple(map(np.dtype, (np.uint8, np.uint16, np.int32, np.int64)))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids a `vocab` table knows: `ids[i]`, int64 or string, reads row i + 1.

    Strings are told apart by their 64-bit xxHash, which takes 16 bytes an id whatever the string.
    """

    ids: pa.Array

    @cached_property
    def _keys(self) -> np.ndarray:
        return xxh64(self.ids).view(np.int64) if self.strings else self.ids.to_numpy()

    @property
    def strings(self) -> bool:
        return not types.is_integer(self.ids.type)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._keys)
        return self._keys[order], order + 1

    @cached_property
    def _dense(self) -> tuple[int, np.ndarray] | None:
        """(lowest id, row of each id from there on, ending with a 0), or None if too sparse."""
        if self.strings or not len(self.ids):
            return None
        low, high = int(self._keys.min()), int(self._keys.max())
        if high - low > SPARSEST * len(self.ids) + 65536:
            return None
        rows = np.zeros(high - low + 2, dtype=np.int64)
        rows[self._keys - low] = np.arange(1, len(self.ids) + 1)
        return low, rows

    @property
    def sparse(self) -> bool:
        """Whether a look-up is slow, so that ids had better be looked up once each."""
        return self._dense is None

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Rows of int64 ids, or of the hashes of strings, viewed as int64; 0 if unknown."""
        if self._dense is not None:
            low, rows = self._dense
            # As unsigned numbers, ids below the lowest are large ones too.
            index = (keys - low).view(np.uint64)
            return rows[np.minimum(index, np.uint64(len(rows) - 1)).view(np.int64)]
        known, rows = self._sorted
        if not len(known):
            return np.zeros(len(keys), dtype=np.int64)
        found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[found] == keys, rows[found], 0)


class TableEncoder:
    """Encodes the ids of one table."""

    def __init__(self, name: str, table: TableConfig, vocabulary: Vocabulary | None) -> None:
        if (table.encode == "vocab") != (vocabulary is not None):
            raise ValueError(f"table {name}: encode is {table.encode}, vocabulary {vocabulary}")
        self.name = name
        self.table = table
        self.vocabulary = vocabulary
        self.dtype = next(d for d in DTYPES if table.rows <= np.iinfo(d).max)

    def __call__(self, ids: pa.Array) -> np.ndarray:
        """Rows of `ids`: integers, strings or a dictionary of strings, nulls allowed.

        The result is of the table's `dtype`. With `encode: none` the ids must have passed `check`.
        """
        if not types.is_integer(ids.type):
            return self._by_dictionary(ids)
        ids = ids.cast(pa.int64())
        if self.table.encode == "none":
            rows = _numpy(ids, -1).astype(self.dtype)
            rows += self.dtype.type(1)
            return rows
        if self.vocabulary is not None and self.vocabulary.sparse:
            return self._by_dictionary(ids)
        rows = self._rows(_numpy(ids, 0))
        if ids.null_count:
            rows[ids.is_null().to_numpy(zero_copy_only=False)] = 0
        return rows.astype(self.dtype)

    def check(self, column: str, ids: pa.Array, place: Place) -> None:
        """Reports ids beyond a table with `encode: none`."""
        if self.table.encode != "none" or len(ids) == ids.null_count:
            return
        lowest, highest = pc.min_max(ids).values()
        if lowest.as_py() < 0 or highest.as_py() >= self.table.rows:
            filled = ids.cast(pa.int64()).fill_null(0).to_numpy()
            wrong = (filled < 0) | (filled >= self.table.rows)
            table = f"tables.{self.name}"
            problem = f"is beyond the table: {table}.rows is {self.table.rows}"
            place.report(column, ids, wrong, problem, f"raise it, or set {table}.encode: hash")

    def _by_dictionary(self, ids: pa.Array) -> np.ndarray:
        """Encodes each distinct id once."""
        if not types.is_dictionary(ids.type):
            ids = ids.dictionary_encode()
        unique = ids.dictionary
        if types.is_integer(unique.type):
            rows = self._rows(_numpy(unique.cast(pa.int64()), 0))
        elif self.vocabulary is not None:
            rows = self.vocabulary.rows(xxh64(unique).view(np.int64))
        else:
            rows = self._bucket(xxh64(unique))
        rows = np.append(rows, 0).astype(self.dtype)
        if unique.null_count:
            rows[:-1][unique.is_null().to_numpy(zero_copy_only=False)] = 0
        return rows.take(_numpy(ids.indices, len(unique)))

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of int64 ids."""
        if self.vocabulary is not None:
            return self.vocabulary.rows(ids)
        return self._bucket(splitmix64(ids.view(np.uint64)))

    def _bucket(self, hashes: np.ndarray) -> np.ndarray:
        """1 + hash mod rows, of uint64 hashes. Overwrites them."""
        # numpy vectorises a division by a scalar, but not a remainder.
        hashes -= hashes // np.uint64(self.table.rows) * np.uint64(self.table.rows)
        hashes += np.uint64(1)
        return hashes.view(np.int64)


def table_encoders(
    layout: Layout, vocabularies: Mapping[str, Vocabulary], kinds: Mapping[str, tuple[str, str]]
) -> dict[str, TableEncoder]:
    """The encoder of every table that is read.

    `kinds` is what `schema.check_split` found in the split. Raises `UserError` where a vocabulary
    was fitted on another type of id.
    """
    for table, vocabulary in vocabularies.items():
        fitted = "string" if vocabulary.strings else "integer"
        kind, where = kinds.get(table, (fitted, ""))
        if kind != fitted:
            raise UserError(
                f"column {where} is {kind}, but the vocabulary of table {table} was fitted on "
                f"{fitted} ids; write the same type in every split"
            )
    tables = layout.config.tables
    return {
        name: TableEncoder(name, tables[name], vocabularies.get(name))
        for name in layout.collection_of
    }


def _numpy(array: pa.Array, null: int) -> np.ndarray:
    """An integer array with `null` in place of nulls; no copy if there are none."""
    return (array.fill_null(null) if array.null_count else array).to_numpy()

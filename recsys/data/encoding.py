"""Ids → rows of embedding tables. Row 0 is for an absent (null) or unknown id."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import types

from recsys.config import TableConfig
from recsys.data.columns import valid
from recsys.data.faults import Place
from recsys.data.hashing import splitmix64, xxh64
from recsys.data.layout import Layout
from recsys.data.lookup import HashIndex, narrowest
from recsys.errors import UserError

# A vocabulary of integers is a plain array if its ids are this dense; else a sorted one.
SPARSEST = 16
# Ids that are encoded at a time: they stay in the processor's cache meanwhile.
CHUNK = 16384


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
    def _index(self) -> HashIndex:
        return HashIndex(self._keys)

    @cached_property
    def _dense(self) -> tuple[int, np.ndarray] | None:
        """(an id below the lowest, the rows of it and of all from there on to one above the
        highest), or None if that is too sparse."""
        if self.strings or not len(self.ids):
            return None
        below, above = int(self._keys.min()) - 1, int(self._keys.max()) + 1
        if above - below > SPARSEST * len(self.ids) + 65536 or below < np.iinfo(np.int64).min:
            return None
        rows = np.zeros(above - below + 1, dtype=narrowest(len(self.ids)))
        rows[self._keys - below] = np.arange(1, len(self.ids) + 1)
        return below, rows

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Rows of int64 ids, or of the hashes of strings, viewed as int64; 0 if unknown."""
        if self._dense is not None:
            below, rows = self._dense
            # Clipping takes an id beyond either end to the row 0 there.
            return rows.take(keys - below, mode="clip")
        return self._index.rows(keys)


class TableEncoder:
    """Encodes the ids of one table."""

    def __init__(self, name: str, table: TableConfig, vocabulary: Vocabulary | None) -> None:
        if (table.encode == "vocab") != (vocabulary is not None):
            raise ValueError(f"table {name}: encode is {table.encode}, vocabulary {vocabulary}")
        self.name = name
        self.table = table
        self.vocabulary = vocabulary
        self.dtype = narrowest(table.rows)

    def encode(self, ids: pa.Array, out: np.ndarray, column: str, place: Place) -> None:
        """Writes the rows of `ids`, the values of `column`, to `out`, of this table's `dtype`.

        `ids` are integers, strings or a dictionary of strings, nulls allowed. Reports ids beyond a
        table with `encode: none` to `place`, or counts what is unknown there.
        """
        if types.is_integer(ids.type):
            self._by_value(ids, out, column, place)
        else:
            out[:] = self._by_dictionary(ids)
        if place.unknown is not None:
            place.unknown.add(column, ids, out)

    def _by_value(self, ids: pa.Array, out: np.ndarray, column: str, place: Place) -> None:
        values, beyond = integers(ids), False
        for start in range(0, len(values), CHUNK):
            chunk, rows = values[start : start + CHUNK], out[start : start + CHUNK]
            if self.table.encode == "none":
                # As unsigned numbers, negative ids are the largest.
                beyond |= bool(chunk.view(np.uint64).max() >= self.table.rows)
                np.add(chunk, 1, out=rows, casting="unsafe")
            else:
                rows[:] = self._rows(chunk)
        if ids.null_count:
            out *= valid(ids)
        if beyond:  # or what is under a null, which may be any value
            wrong = ((values < 0) | (values >= self.table.rows)) & valid(ids)
            if place.unknown is not None:
                out[wrong] = 0
                return
            table = f"tables.{self.name}"
            problem = f"is beyond the table: {table}.rows is {self.table.rows}"
            fix = f"raise it, or set {table}.encode: hash"
            place.report(column, ids, wrong, problem, fix)

    def _by_dictionary(self, ids: pa.Array) -> np.ndarray:
        """Encodes each distinct id once."""
        if not types.is_dictionary(ids.type):
            ids = ids.dictionary_encode()
        unique = ids.dictionary
        if types.is_integer(unique.type):
            rows = self._rows(integers(unique))
        elif self.vocabulary is not None:
            rows = self.vocabulary.rows(xxh64(unique).view(np.int64))
        else:
            rows = self._bucket(xxh64(unique))
        if unique.null_count:
            rows[~valid(unique)] = 0
        rows = np.append(rows, 0)
        # The index of a null is taken to be the last one.
        return rows.take(np.where(valid(ids), integers(ids.indices), len(unique)))

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


def integers(array: pa.Array) -> np.ndarray:
    """The int64 values of an integer array, without a copy if they are that; any under a null."""
    array = array.cast(pa.int64())
    return np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array)]

"""Flat Arrow columns → an encoded block, every value checked on the way."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike
from pyarrow import types

from recsys.data.block import LEVELS, Block, join_extras, record_types
from recsys.data.columns import Columns, valid
from recsys.data.encoding import TableEncoder
from recsys.data.faults import Place
from recsys.data.layout import Layout
from recsys.data.schema import Column, column_name, features_of

LARGEST = float(np.finfo(np.float32).max)
FLOAT = pa.float32()
NAN = np.float32(np.nan)
LINE = 16  # float32 numbers of a cache line


class BlockBuilder:
    """Encodes row groups, one after the other, into blocks.

    The memory of a block is used again for its next one: copy what you keep (`Block.select`).
    """

    def __init__(self, layout: Layout, tables: dict[str, TableEncoder]) -> None:
        self.layout = layout
        self.tables = tables
        self._requests = 1
        self._parts: list[Columns] = []
        self._records = {level: _Growing(kind) for level, kind in record_types(layout).items()}
        self._numbers = {
            level: _Growing(np.float32, len(layout.numbers_of(level))) for level in LEVELS
        }
        self._labels = _Growing(np.float32, len(layout.tasks))
        self._bags = {
            column.key: _Growing(tables[column.feature.id].dtype)
            for column in layout.ids
            if column.multi_valued
        }

    def begin(self, requests: int) -> None:
        """Begins a block of about that many requests: right, it saves copies; wrong, no harm."""
        self._requests = max(requests, 1)
        self._parts = []
        numbers = self._numbers.values()
        for rows in (*self._records.values(), *numbers, *self._bags.values(), self._labels):
            rows.clear()

    def add(self, columns: Columns, place: Place) -> None:
        """Appends a row group. Reports to `place` every value that the model could not read."""
        share = len(columns.surface) / self._requests
        for each in features_of(self.layout):
            self._check_required(each, columns, place)
        sizes = {
            "request": len(columns.surface),
            "candidate": int(columns.candidate_lengths.sum()),
            "history": int(columns.history_lengths.sum()),
        }
        records = {level: self._records[level].extend(sizes[level], share) for level in LEVELS}
        records["request"]["surface"] = columns.surface
        records["request"]["candidates"] = columns.candidate_lengths
        records["request"]["events"] = columns.history_lengths
        for column in self.layout.ids:
            values, rows = columns.values[column.key], records[column.level][column.key]
            if column.multi_valued:
                rows[:] = columns.inner[column.key]
                rows = self._bags[column.key].extend(len(values), share)
            table = self.tables[column.feature.id]
            table.encode(values, rows, column_name(column), place)
        for level in LEVELS:
            numbers = self.layout.numbers_of(level)
            named = {column_name(n): columns.values[n.key] for n in numbers}
            write_numbers(named, self._numbers[level].extend(sizes[level], share), place)
        tasks = self.layout.tasks
        found = {f"candidates.{t}": columns.values.get(f"label.{t}") for t in tasks}
        write_labels(found, self._labels.extend(sizes["candidate"], share), place)
        columns.values = {}
        self._parts.append(columns)

    def block(self) -> Block:
        """The row groups that were added since `begin`."""
        return Block(
            records={level: rows.filled() for level, rows in self._records.items()},
            numbers={level: rows.filled() for level, rows in self._numbers.items()},
            labels=self._labels.filled(),
            bags={key: rows.filled() for key, rows in self._bags.items()},
            request_extras=join_extras([p.request_extras for p in self._parts]),
            candidate_extras=join_extras([p.candidate_extras for p in self._parts]),
        )

    def _check_required(self, each: Column, columns: Columns, place: Place) -> None:
        key = each.key
        values, only = columns.values[key], each.feature.surfaces
        if not (each.feature.required and values.null_count):
            return
        null = values.is_null().to_numpy(zero_copy_only=False)
        if only and key not in columns.inner:
            null &= columns.on_surfaces(self.layout, only, each.level)  # elsewhere all are null
        fix = "write a value, or remove `required` from the feature"
        place.report(column_name(each), values, null, "but the feature is required", fix)


class _Growing:
    """An array that rows are appended to, in place."""

    def __init__(self, dtype: DTypeLike, *width: int) -> None:
        self._data = np.empty((0, *width), dtype)
        self._rows = 0

    def extend(self, rows: int, share: float) -> np.ndarray:
        """Room for `rows` more rows; they are about `share` of all that will come."""
        end = self._rows + rows
        if end > len(self._data):
            # 5 % more than expected; memory that is never written is never taken.
            room = max(end, int(1.05 * rows / share) if share else 0, 2 * len(self._data))
            data = np.empty((room, *self._data.shape[1:]), self._data.dtype)
            data[: self._rows] = self._data[: self._rows]
            self._data = data
        new = self._data[self._rows : end]
        self._rows = end
        return new

    def clear(self) -> None:
        self._rows = 0

    def filled(self) -> np.ndarray:
        return self._data[: self._rows]


def write_numbers(columns: dict[str, pa.Array], out: np.ndarray, place: Place) -> None:
    """Writes the columns to `out`, `[n, columns]` float32, NaN for null.

    Reports to `place` numbers that are not finite float32 numbers.
    """
    rows, known = _as_rows(columns.values(), out)
    out[:] = rows.T
    if np.count_nonzero(np.isfinite(rows)) == known:
        return
    for column, values in columns.items():
        if not types.is_floating(values.type):
            continue
        present, exact = valid(values), values.cast(pa.float64()).fill_null(0).to_numpy()
        finite = np.isfinite(exact)
        fix = "write null where the number is unknown"
        place.report(column, values, ~finite & present, "is not a finite number", fix)
        large = finite & (np.abs(exact) > LARGEST)
        place.report(column, values, large, "is beyond float32", "scale the column down")


def write_labels(columns: dict[str, pa.Array | None], out: np.ndarray, place: Place) -> None:
    """Writes the columns to `out`, `[n, columns]` float32, NaN for null or a column not read.

    Reports to `place` labels outside 0 to 1, and NaN.
    """
    rows, known = _as_rows(columns.values(), out)
    out[:] = rows.T
    # Comparisons with NaN are false.
    right = (rows >= 0) & (rows <= 1)
    if np.count_nonzero(right) == known:
        return
    for index, (column, values) in enumerate(columns.items()):
        if values is not None:
            wrong = ~right[index] & valid(values)
            fix = "write a label between 0 and 1, or null where it is unknown"
            place.report(column, values, wrong, "is not a label", fix)


def _as_rows(columns: Collection[pa.Array | None], out: np.ndarray) -> tuple[np.ndarray, int]:
    """The columns as float32 rows, the transpose of what belongs in `out`, NaN for null.

    Also returns how many values are not null.
    """
    known, length = 0, len(out)
    # One transposition reads all rows at once. They are an odd number of cache lines apart: at a
    # power of 2, all of a column would have to share a few lines, and it took four times as long.
    rows = np.empty((len(columns), (-(-length // LINE) | 1) * LINE), np.float32)[:, :length]
    for row, values in zip(rows, columns, strict=True):
        if values is None:
            row[:] = np.nan
            continue
        raw = values if values.type == FLOAT else values.cast(FLOAT, safe=False)
        row[:] = np.frombuffer(raw.buffers()[1], np.float32)[raw.offset : raw.offset + length]
        known += length - values.null_count
        if values.null_count:
            np.copyto(row, NAN, where=~valid(values))
    return rows, known

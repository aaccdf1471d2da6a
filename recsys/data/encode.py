"""Flat Arrow columns → an encoded block, every value checked on the way."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike
from pyarrow import types

from recsys.data.block import LEVELS, Block
from recsys.data.columns import Columns, valid
from recsys.data.encoding import TableEncoder
from recsys.data.faults import Place
from recsys.data.layout import Layout
from recsys.data.schema import Column, column_name, feature_key, features_of

LARGEST = float(np.finfo(np.float32).max)
FLOAT = pa.float32()
NAN = np.float32(np.nan)


class BlockBuilder:
    """Encodes row groups, one after the other, into blocks.

    The memory of a block is used again for its next one: copy what you keep (`Block.select`).
    """

    def __init__(self, layout: Layout, tables: dict[str, TableEncoder]) -> None:
        self.layout = layout
        self.tables = tables
        self._requests = 1
        self._parts: list[Columns] = []
        self._ids = {c.key: _Growing((0,), tables[c.feature.id].dtype) for c in layout.ids}
        self._numbers = {
            level: _Growing((0, len(layout.numbers_of(level))), np.float32) for level in LEVELS
        }
        self._labels = _Growing((0, len(layout.tasks)), np.float32)

    def begin(self, requests: int) -> None:
        """Begins a block of about that many requests: right, it saves copies; wrong, no harm."""
        self._requests = max(requests, 1)
        self._parts = []
        for rows in (*self._ids.values(), *self._numbers.values(), self._labels):
            rows.clear()

    def add(self, columns: Columns, place: Place) -> None:
        """Appends a row group. Reports to `place` every value that the model could not read."""
        share = len(columns.surface) / self._requests
        for each in features_of(self.layout):
            self._check_required(each, columns, place)
        for column in self.layout.ids:
            values, table = columns.values[column.key], self.tables[column.feature.id]
            rows = self._ids[column.key].extend(len(values), share)
            table.encode(values, rows, column_name(column), place)
        sizes = {
            "request": len(columns.surface),
            "candidate": int(columns.candidate_lengths.sum()),
            "history": int(columns.history_lengths.sum()),
        }
        for level in LEVELS:
            numbers = self.layout.numbers_of(level)
            named = {column_name(n): columns.values[feature_key(n)] for n in numbers}
            write_numbers(named, self._numbers[level].extend(sizes[level], share), place)
        matrix = self._labels.extend(sizes["candidate"], share)
        tasks = self.layout.tasks
        found = {f"candidates.{t}": columns.values.get(f"label.{t}") for t in tasks}
        write_labels(found, matrix, place)
        columns.values = {}
        self._parts.append(columns)

    def block(self) -> Block:
        """The row groups that were added since `begin`."""
        parts, join = self._parts, np.concatenate
        return Block(
            surface=join([p.surface for p in parts]),
            candidate_lengths=join([p.candidate_lengths for p in parts]),
            history_lengths=join([p.history_lengths for p in parts]),
            ids={key: rows.filled() for key, rows in self._ids.items()},
            inner={key: join([p.inner[key] for p in parts]) for key in parts[0].inner},
            numbers={level: matrix.filled() for level, matrix in self._numbers.items()},
            labels=self._labels.filled(),
            request_extras=_join([p.request_extras for p in parts]),
            candidate_extras=_join([p.candidate_extras for p in parts]),
        )

    def _check_required(self, each: Column, columns: Columns, place: Place) -> None:
        key = feature_key(each)
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

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._data = np.empty(shape, dtype)
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
    known = _write(columns.values(), out)
    if np.count_nonzero(np.isfinite(out)) == known:
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
    known = _write(columns.values(), out)
    # Comparisons with NaN are false.
    right = (out >= 0) & (out <= 1)
    if np.count_nonzero(right) == known:
        return
    for index, (column, values) in enumerate(columns.items()):
        if values is not None:
            wrong = ~right[:, index] & valid(values)
            fix = "write a label between 0 and 1, or null where it is unknown"
            place.report(column, values, wrong, "is not a label", fix)


def _write(columns: Iterable[pa.Array | None], out: np.ndarray) -> int:
    """Writes columns as float32, NaN for null, and returns how many values are not null."""
    known = 0
    for index, values in enumerate(columns):
        if values is None:
            out[:, index] = np.nan
            continue
        raw = values if values.type == FLOAT else values.cast(FLOAT, safe=False)
        data = np.frombuffer(raw.buffers()[1], np.float32)[raw.offset : raw.offset + len(raw)]
        known += len(values) - values.null_count
        # Several times as fast as Arrow's `fill_null`, which goes from null to null.
        out[:, index] = np.where(valid(values), data, NAN) if values.null_count else data
    return known


def _join(tables: list[pa.Table | None]) -> pa.Table | None:
    return None if tables[0] is None else pa.concat_tables(tables, promote_options="permissive")

"""Flat Arrow columns → an encoded block, every value checked on the way."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from recsys.data.block import LEVELS, Block
from recsys.data.columns import Columns
from recsys.data.encoding import TableEncoder
from recsys.data.faults import Place
from recsys.data.layout import Layout, NumberColumn
from recsys.data.schema import column_name, feature_key

LARGEST = float(np.finfo(np.float32).max)


def check_columns(
    columns: Columns, layout: Layout, tables: dict[str, TableEncoder], place: Place
) -> None:
    """Reports every value that the model could not read."""
    for each in (*layout.ids, *layout.numbers):
        key, column, feature = feature_key(each), column_name(each), each.feature
        values = columns.values[key]
        if feature.required and values.null_count:
            null = values.is_null().to_numpy(zero_copy_only=False)
            if feature.surfaces and key not in columns.inner:
                # Elsewhere it is null by definition.
                null &= columns.on_surfaces(layout, feature.surfaces, each.level)
            fix = "write a value, or remove `required` from the feature"
            place.report(column, values, null, "but the feature is required", fix)
        if isinstance(each, NumberColumn):
            check_number(column, values, place)
        else:
            tables[each.feature.id].check(column, values, place)
    for task in layout.tasks:
        if f"label.{task}" in columns.values:
            _check_label(f"candidates.{task}", columns.values[f"label.{task}"], place)


def encode(columns: Columns, layout: Layout, tables: dict[str, TableEncoder]) -> Block:
    """Encodes columns that passed `check_columns`."""
    sizes = {
        "request": len(columns.surface),
        "candidate": int(columns.candidate_lengths.sum()),
        "history": int(columns.history_lengths.sum()),
    }
    numbers = {}
    for level in LEVELS:
        names = [f"{level}.{column.name}" for column in layout.numbers_of(level)]
        numbers[level] = _matrix([columns.values[name] for name in names], sizes[level])
    if all(f"label.{task}" in columns.values for task in layout.tasks):
        labels = [columns.values[f"label.{task}"] for task in layout.tasks]
    else:  # not read: all are unknown
        labels = [pa.nulls(sizes["candidate"], pa.float32())] * len(layout.tasks)
    return Block(
        surface=columns.surface,
        candidate_lengths=columns.candidate_lengths,
        history_lengths=columns.history_lengths,
        ids={c.key: tables[c.feature.id](columns.values[c.key]) for c in layout.ids},
        inner=columns.inner,
        numbers=numbers,
        labels=_matrix(labels, sizes["candidate"]),
        request_extras=columns.request_extras,
        candidate_extras=columns.candidate_extras,
    )


def _matrix(columns: list[pa.Array], rows: int) -> np.ndarray:
    """`[rows, columns]` float32, NaN for null."""
    matrix = np.empty((rows, len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        matrix[:, index] = floats(column)
    return matrix


def floats(values: pa.Array) -> np.ndarray:
    """float32, NaN for null. Zero-copy for float32 without nulls."""
    values = values.cast(pa.float32(), safe=False)
    return (values.fill_null(math.nan) if values.null_count else values).to_numpy()


def check_number(column: str, values: pa.Array, place: Place) -> None:
    """Reports numbers that are not finite float32 numbers."""
    if not types.is_floating(values.type):
        return
    # NaN and infinity show in the sum; so may a float64 that float32 cannot hold in the range.
    total = pc.sum(values).as_py()
    if total is None or (math.isfinite(total) and not types.is_float64(values.type)):
        return
    filled = values.cast(pa.float64()).fill_null(0).to_numpy()
    finite = np.isfinite(filled)
    fix = "write null where the number is unknown"
    place.report(column, values, ~finite, "is not a finite number", fix)
    large = finite & (np.abs(filled) > LARGEST)
    place.report(column, values, large, "is beyond float32", "scale the column down")


def _check_label(column: str, values: pa.Array, place: Place) -> None:
    if types.is_boolean(values.type) or len(values) == values.null_count:
        return
    lowest, highest = (x.as_py() for x in pc.min_max(values).values())
    # A NaN shows in the sum; `min_max` passes over it.
    finite = not types.is_floating(values.type) or math.isfinite(pc.sum(values).as_py())
    if finite and lowest >= 0 and highest <= 1:
        return
    filled = values.cast(pa.float64()).fill_null(0).to_numpy()
    wrong = ~((filled >= 0) & (filled <= 1))
    fix = "write a label between 0 and 1, or null where it is unknown"
    place.report(column, values, wrong, "is not a label", fix)

"""A decoded row group → flat Arrow columns, one value an item, without a loop over rows."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.faults import Place
from recsys.data.layout import Layout
from recsys.data.schema import Projection


@dataclass
class Columns:
    """The flat columns of R requests with C candidates and H history events.

    `values` has one Arrow array for each feature (`request.user_id`) and label (`label.click`), of
    the length of its level: R, C or H. For a multi-valued feature it has all its ids, and `inner`
    says how many each request or candidate has. Features of some surfaces only are null elsewhere.
    Histories are cut to their latest `features.history.length` events.
    """

    surface: np.ndarray  # [R] int64; −1 where unknown (only while faults are collected)
    candidate_lengths: np.ndarray  # [R] int64
    history_lengths: np.ndarray  # [R] int64
    values: dict[str, pa.Array] = field(default_factory=dict)
    inner: dict[str, np.ndarray] = field(default_factory=dict)  # int64
    request_extras: pa.Table | None = None
    candidate_extras: pa.Table | None = None

    def on_surfaces(self, layout: Layout, surfaces: tuple[str, ...], level: str) -> np.ndarray:
        """Mask of the requests, or candidates, that are of one of `surfaces`."""
        wanted = np.zeros(len(layout.surfaces) + 1, dtype=bool)  # the last is for −1
        wanted[[layout.surfaces.index(name) for name in surfaces]] = True
        on = wanted[self.surface]
        return on if level == "request" else np.repeat(on, self.candidate_lengths)


def flatten(table: pa.Table, chosen: Projection, place: Place) -> Columns:
    """Flattens the columns of one row group. Reports surfaces that are unknown or null, unless
    they are scored as another one."""
    layout = chosen.layout
    surface = _surfaces(_array(table, layout.axis), layout, place)
    none = np.zeros(len(surface), dtype=np.int64)
    columns, fields = Columns(surface, none, none), {}
    # A list is not in the table if none of its fields is chosen.
    if "candidates" in table.column_names:
        array = _array(table, "candidates")
        columns.candidate_lengths, fields["candidate"] = unnest(array)
    if "history" in table.column_names:
        lengths, events = unnest(_array(table, "history"))
        columns.history_lengths, fields["history"] = _latest(lengths, events, layout.history_length)
    for each in chosen.features:
        key, only = each.key, each.feature.surfaces
        if each.level == "request":
            array = _array(table, each.name)
        else:
            array = _child(fields[each.level], each.name)
        on = columns.on_surfaces(layout, only, each.level) if only else None
        if each.multi_valued:
            columns.inner[key], array = unnest(array)
            if on is not None:
                array = array.filter(pa.array(np.repeat(on, columns.inner[key])))
                columns.inner[key] = np.where(on, columns.inner[key], 0)
        elif on is not None:
            array = pc.if_else(pa.array(on), array, pa.scalar(None, array.type))
        columns.values[key] = array
    for task in layout.tasks if chosen.labels else ():
        columns.values[f"label.{task}"] = _child(fields["candidate"], task)
    if chosen.request_extras or chosen.candidate_extras:
        extras = {name: _decoded(_array(table, name)) for name in chosen.request_extras}
        columns.request_extras = pa.table(extras)
        candidate = fields["candidate"] if chosen.candidate_extras else None
        extras = {name: _decoded(_child(candidate, name)) for name in chosen.candidate_extras}
        columns.candidate_extras = pa.table(extras)
    return columns


def unnest(array: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """A list array as (lengths int64, all elements); a null list is an empty one."""
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    offsets = array.offsets.to_numpy()
    lengths = np.diff(offsets).astype(np.int64, copy=False)
    if array.null_count:
        present = valid(array)
        if lengths[~present].any():  # Arrow allows a null list to cover elements
            return lengths * present, array.flatten()
    return lengths, array.values.slice(offsets[0], offsets[-1] - offsets[0])


def _latest(lengths: np.ndarray, events: pa.Array, most: int) -> tuple[np.ndarray, pa.Array]:
    """The last `most` events of each history."""
    kept = np.minimum(lengths, most)
    if (kept == lengths).all():
        return lengths, events
    return kept, events.take(pa.array(ragged_index(np.cumsum(lengths) - kept, kept)))


def ragged_index(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices starts[0], …, starts[0] + lengths[0] − 1, starts[1], …; int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    index = np.repeat(starts - ends + lengths, lengths)
    index += np.arange(total, dtype=np.int64)
    return index


def valid(array: pa.Array) -> np.ndarray:
    """Mask of the values that are not null."""
    bits = array.buffers()[0]
    if bits is None or not array.null_count:
        return np.ones(len(array), dtype=bool)
    first, start = divmod(array.offset, 8)
    taken = np.frombuffer(bits, np.uint8)[first : (array.offset + len(array) + 7) // 8]
    unpacked = np.unpackbits(taken, bitorder="little")[start : start + len(array)]
    return unpacked.view(bool)


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    # An empty table has no chunk; a very long string column has several.
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _child(struct: pa.StructArray, name: str) -> pa.Array:
    # `struct_field` makes a field of a null struct null, `struct.field` does not.
    return pc.struct_field(struct, name) if struct.null_count else struct.field(name)


def _surfaces(array: pa.Array, layout: Layout, place: Place) -> np.ndarray:
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    known = {name: code for code, name in enumerate(layout.surfaces)}
    # The last is for null, whose index is taken to be −1.
    codes = np.array([*(known.get(name, -1) for name in array.dictionary.to_pylist()), -1])
    surface = codes[array.indices.fill_null(-1).to_numpy()]
    fallback = layout.config.data.fallback
    if place.unseen is not None and fallback in known:
        place.unseen.add(array.filter(pa.array(surface < 0)))
        surface = np.where(surface < 0, known[fallback], surface)
    if (surface < 0).any():
        null = array.is_null().to_numpy(zero_copy_only=False)
        fix = "write one of the surfaces of the configuration"
        place.report(layout.axis, array, null, "is not a surface", fix)
        fix = f"use one of {', '.join(layout.surfaces)}, or declare it under `surfaces`"
        unknown = (surface < 0) & ~null
        place.report(layout.axis, array, unknown, "is not a surface of the configuration", fix)
    return surface

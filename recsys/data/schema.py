"""Which columns of a request table are read, and the Arrow types that they must have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from recsys.config import IdFeature
from recsys.config.experiment import nearest
from recsys.config.features import Level
from recsys.data.layout import IdColumn, Layout, NumberColumn
from recsys.data.splits import Split
from recsys.errors import UserError

# The list column that holds each level's fields.
LIST_OF = {"candidate": "candidates", "history": "history"}


# Any feature of a layout.
Column: TypeAlias = IdColumn | NumberColumn


def features_of(layout: Layout) -> tuple[Column, ...]:
    """The features that the model reads: ids, then numbers."""
    return (*layout.ids, *layout.numbers)


def column_name(each: Column) -> str:
    """A feature's column as a user knows it, for example `candidates.video_id`."""
    return each.name if each.level == "request" else f"{LIST_OF[each.level]}.{each.name}"


@dataclass(frozen=True)
class Projection:
    """What is read of a request table.

    `request_extras` and `candidate_extras` are columns that are not inputs of the model; they
    are copied to predictions.
    """

    layout: Layout
    features: tuple[Column, ...]
    labels: bool = True
    request_extras: tuple[str, ...] = ()
    candidate_extras: tuple[str, ...] = ()

    def columns(self) -> Iterator[tuple[str, str | None]]:
        """(top-level column, field of its structs or None) for each column that is read."""
        yield self.layout.axis, None
        for name in self.request_extras:
            yield name, None
        for each in self.features:
            yield (each.name, None) if each.level == "request" else (LIST_OF[each.level], each.name)
        for name in (*(self.layout.tasks if self.labels else ()), *self.candidate_extras):
            yield "candidates", name


def projection(layout: Layout, split: Split, *, predictions: bool, labels: bool) -> Projection:
    """The projection for a split. With `predictions`, `request_id`, `time`, the group and kept
    columns are extras, each found in the request or in the candidates."""
    features = features_of(layout)
    if not predictions:
        return Projection(layout, features, labels)
    schema, file = split.schemas[0], split.show(0)
    options = layout.config.evaluation
    fields = _struct(schema, "candidates", file)
    request, candidate = ["request_id", "time"], []
    wanted = dict.fromkeys(options.keep, "evaluation.keep")
    if options.group:
        wanted[options.group] = "evaluation.group"
    for name, key in wanted.items():
        if name in schema.names and name not in LIST_OF.values():
            request.append(name)
        elif name in fields:
            candidate.append(name)
        else:
            known = [n for n in schema.names if n not in LIST_OF.values()] + list(fields)
            raise UserError(f"{file}: no column {name} ({key}); {nearest(name, known)}")
    request = list(dict.fromkeys(request))
    return Projection(layout, features, labels, tuple(request), tuple(candidate))


def leaf_columns(parquet: pq.ParquetFile, chosen: Projection) -> list[str]:
    """The Parquet leaf columns of a projection, as `read_row_group` takes them."""
    wanted = set(chosen.columns())
    top = {name for name, field in wanted if field is None}
    schema = parquet.schema
    found = []
    for index in range(len(schema)):
        path = schema.column(index).path
        name, *inner = path.split(".")
        # Writers name the levels between a list and its fields differently.
        if name in top or path in top or any((name, part) in wanted for part in inner):
            found.append(path)
    return found


def string_columns(schema: pq.ParquetSchema, leaves: list[str], chosen: Projection) -> list[str]:
    """Those of `leaves` that hold strings and are features or the axis: read as dictionaries,
    each string is made once."""
    extras = {*chosen.request_extras} - {each.name for each in chosen.features}
    columns = (schema.column(index) for index in range(len(schema)))
    strings = [c.path for c in columns if c.logical_type.type == "STRING"]
    return [path for path in strings if path in set(leaves) - extras]


def check_split(split: Split, chosen: Projection) -> dict[str, tuple[str, str]]:
    """Checks the schema of every file. Raises `UserError` for the first column that is wrong.

    Returns the kind of ids that each table reads, "string" or "integer", and where that was found.
    """
    tables: dict[str, tuple[str, str]] = {}  # table → kind of its ids and where that was seen
    seen: list[pa.Schema] = []
    for number, schema in enumerate(split.schemas):
        if schema in seen:
            continue
        seen.append(schema)
        check_schema(schema, split.show(number), chosen, tables)
    return tables


def check_schema(
    schema: pa.Schema, file: str, chosen: Projection, tables: dict[str, tuple[str, str]]
) -> None:
    """Checks one schema. `tables` remembers the kind of ids each table reads, across files."""
    axis = chosen.layout.axis
    _expect(_column(schema, axis, file), is_string, axis, "string", file)
    for name in chosen.request_extras:
        kind = _column(schema, name, file)
        if name == "time":
            _expect(kind, is_time, name, "int64 (ms since epoch) or timestamp", file)
        elif name == "request_id":
            _expect(kind, lambda t: types.is_integer(t) or is_string(t), name, _IDS, file)
    levels: dict[Level, dict[str, pa.DataType]] = {
        "request": {f.name: f.type for f in schema},
        "candidate": _struct(schema, "candidates", file),
        "history": _struct(schema, "history", file) if chosen.layout.history_length else {},
    }
    for each in chosen.features:
        column = column_name(each)
        kind = _field(levels[each.level], each.name, column, file)
        if isinstance(each, IdColumn):
            _check_id(kind, each.feature, column, file, chosen.layout, tables)
        else:
            _expect(kind, is_number, column, "a number (int64, float32 or float64)", file)
    for name in chosen.layout.tasks if chosen.labels else ():
        column = f"candidates.{name}"
        kind = _field(levels["candidate"], name, column, file)
        _expect(kind, is_number, column, "a label (int8, float32 or bool; null = unknown)", file)
    for name in chosen.candidate_extras:
        _field(levels["candidate"], name, f"candidates.{name}", file)


_IDS = "int64 or string"


def _check_id(
    kind: pa.DataType,
    feature: IdFeature,
    column: str,
    file: str,
    layout: Layout,
    tables: dict[str, tuple[str, str]],
) -> None:
    if feature.pooling is None and is_list(kind):
        raise UserError(
            f"{file}: column {column} is {kind}, a list, but the feature has one id; "
            f"add `pooling: sum` or `mean` to features' {column}"
        )
    if feature.pooling is not None and not is_list(kind):
        raise UserError(
            f"{file}: column {column} is {kind}, wanted a list of ids as the feature has "
            f"`pooling`; write a list, or remove `pooling`"
        )
    kind = kind.value_type if is_list(kind) else kind
    found = "string" if is_string(kind) else "integer" if types.is_integer(kind) else None
    if found is None or kind == pa.uint64():
        raise UserError(f"{file}: column {column} is {kind}, wanted {_IDS}; cast the column")
    encode = layout.config.tables[feature.id].encode
    if found == "string" and encode == "none":
        raise UserError(
            f"{file}: column {column} is string, wanted int64 as tables.{feature.id}.encode is "
            "none; set it to vocab or hash"
        )
    before, where = tables.setdefault(feature.id, (found, f"{column} of {file}"))
    if before != found:
        raise UserError(
            f"{file}: column {column} is {found}, but {where}, which reads the same table "
            f"{feature.id}, is {before}; write both as one type, or the same id gets two rows"
        )


def _struct(schema: pa.Schema, name: str, file: str) -> dict[str, pa.DataType]:
    """The fields of a list<struct> column."""
    kind = _column(schema, name, file)
    if not is_list(kind) or not types.is_struct(kind.value_type):
        raise UserError(
            f"{file}: column {name} is {kind}, wanted list<struct<…>>; write one struct for each "
            f"{'event' if name == 'history' else 'candidate'}"
        )
    return {f.name: f.type for f in kind.value_type}


def _column(schema: pa.Schema, name: str, file: str) -> pa.DataType:
    return _field({f.name: f.type for f in schema}, name, name, file)


def _field(fields: dict[str, pa.DataType], name: str, column: str, file: str) -> pa.DataType:
    if name not in fields:
        raise UserError(f"{file}: no column {column}; {nearest(name, fields)}")
    return fields[name]


def _expect(kind: pa.DataType, test: object, column: str, wanted: str, file: str) -> None:
    if not test(kind):  # type: ignore[operator]
        raise UserError(f"{file}: column {column} is {kind}, wanted {wanted}; cast the column")


def is_string(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind)


def is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def is_number(kind: pa.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def is_time(kind: pa.DataType) -> bool:
    return kind == pa.int64() or types.is_timestamp(kind)

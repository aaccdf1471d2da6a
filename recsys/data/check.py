"""Every row of every split against the configuration: counts, and every fault."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from recsys.config import Config
from recsys.data.columns import Columns, valid
from recsys.data.counts import SplitCounts
from recsys.data.encode import BlockBuilder
from recsys.data.encoding import Vocabulary, integers, table_encoders
from recsys.data.faults import Fault, Place
from recsys.data.hashing import xxh64
from recsys.data.layout import Layout
from recsys.data.rowgroups import RowGroups
from recsys.data.schema import check_split, projection
from recsys.data.splits import Split, open_split
from recsys.errors import UserError

SPLITS = ("train", "valid", "test")


def check(config: Config, splits: Iterable[str] | None = None) -> dict[str, Any]:
    """Reads splits fully. Default: all three.

    Returns `{"splits": {name: {"requests", "candidates", "events", "surfaces": {surface:
    {"requests", "candidates", "tasks": {task: {"known", "positives"}}}}, "features": {column:
    {"values", "nulls", "min", "max"}}}}, "faults": [{"split", "message", "file", "row_group",
    "column", "value", "count", "problem", "fix"}]}`. `min` and `max` are null for strings;
    `positives` sums the labels that are not null.

    A split whose files or schema are wrong has one fault, of which only the message is given, and
    no counts. A request_id that occurs twice in a split is a fault; that takes 8 bytes of
    memory a request, and two different ids are taken for one with a chance of n² / 2⁶⁵.
    """
    result: dict[str, Any] = {"splits": {}, "faults": []}
    found: Sequence[Fault | str]
    for name in SPLITS if splits is None else splits:
        try:
            split = open_split(config, name)
            counts, found = _check_split(config, split)
        except UserError as error:
            found = [str(error)]
        else:
            result["splits"][name] = counts
        result["faults"] += [_plain(name, fault) for fault in found]
    return result


def _check_split(config: Config, split: Split) -> tuple[dict[str, Any], list[Fault]]:
    layout = Layout(config)
    chosen = projection(layout, split, predictions=True, labels=True)
    # Any vocabulary will do: no id is wrong for it, and the rows are not looked at.
    kinds = check_split(split, chosen)
    vocabularies = {
        name: Vocabulary(pa.array([], pa.string() if kinds[name][0] == "string" else pa.int64()))
        for name in layout.collection_of
        if config.tables[name].encode == "vocab"
    }
    tables = table_encoders(layout, vocabularies, kinds)
    builder, counts = BlockBuilder(layout, tables), SplitCounts(layout)
    faults: list[Fault] = []
    request_ids = []
    with RowGroups(split, chosen) as source:
        for number in range(len(split.row_groups)):
            place = source.place(number, faults)
            columns = source.columns(number, place)
            values = dict(columns.values)
            builder.begin(len(columns.surface))
            builder.add(columns, place)
            columns.values = values
            counts.add(columns, builder.block().labels)
            request_ids.append(_hashes(_extra(columns, "request_id", place)))
            _extra(columns, "time", place)
        faults += _duplicates(request_ids, source)
    return counts.result(), faults


def _extra(columns: Columns, name: str, place: Place) -> pa.Array:
    """A column that is not a feature; reports nulls."""
    assert columns.request_extras is not None
    values = pa.concat_arrays(columns.request_extras[name].chunks)
    place.report(name, values, ~valid(values), "in every request is needed", "write one")
    return values


def _hashes(ids: pa.Array) -> np.ndarray:
    """64 bits for each id that is not null; different for different integers."""
    ids = ids.drop_null()
    return integers(ids).view(np.uint64) if types.is_integer(ids.type) else xxh64(ids)


def _duplicates(hashes: list[np.ndarray], source: RowGroups) -> list[Fault]:
    """The fault that request ids occur twice. `hashes` are those of each row group."""
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable")
    again = order[1:][joined[order[1:]] == joined[order[:-1]]]
    if not len(again):
        return []
    first = int(again.min())
    ends = np.cumsum([len(each) for each in hashes])
    number = int(np.searchsorted(ends, first, side="right"))
    place = source.place(number)
    columns = source.columns(number, source.place(number, []))
    ids = _extra(columns, "request_id", source.place(number, []))
    value = ids.drop_null()[first - int(ends[number]) + len(hashes[number])].as_py()
    problem = "is the id of an earlier request too"
    fix = "give each request its own id"
    count = len(again)
    return [Fault(place.file, place.row_group, "request_id", value, count, problem, fix)]


def _plain(split: str, fault: Fault | str) -> dict[str, Any]:
    """A fault as values that JSON has."""
    if isinstance(fault, str):
        none = dict.fromkeys(("file", "row_group", "column", "value", "count", "problem", "fix"))
        return {"split": split, "message": fault, **none}
    value = fault.value
    if not isinstance(value, int | str | None) and not (
        isinstance(value, float) and math.isfinite(value)
    ):
        value = str(value)
    return {"split": split, "message": str(fault), **asdict(fault), "value": value}

"""Which slice of a table a row belongs to: all, its surface, a segment of users, a day.

A slicing gives each row one small number, by SQL, so that any stream of rows can carry it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import pyarrow as pa

from recsys.errors import UserError
from recsys.evaluation.rows import SURFACE, PredictionRows
from recsys.sql import quoted, text

MOST_VALUES = 12  # of a segment; rarer ones are "other"
MOST_DAYS = 31
# Upper ends of buckets for what counts things: history lengths, candidates, days since sign-up.
COUNTS = (0, 4, 9, 19, 49, 99, 199, 499, 999)
# Columns that `recsys evaluate` adds to the predictions table and that segment users by themselves.
HISTORY_LENGTH = "history_length"
KNOWN_GROUP = "known_group"

# Slicings that are always there; figures are kept by the name of their slicing.
TAKEN = ("all", "surface", "surface day")

MS_A_DAY = 86_400_000
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Slicing:
    """A way to cut a table into slices, by a column."""

    name: str
    labels: tuple[str, ...]  # of the slices; a row's number is the position of its label
    sql: str  # the number of a row; null: in no slice


def everything() -> Slicing:
    """One slice of all rows."""
    return Slicing("all", ("all",), "0")


def by_surface(rows: PredictionRows) -> Slicing:
    """A slice a surface."""
    return Slicing("surface", tuple(rows.surfaces), quoted(SURFACE))


def segment_names(*lists: Sequence[str]) -> list[str]:
    """The columns of the lists, each once; raises `UserError` for the name of another slicing."""
    columns = list(dict.fromkeys(name for each in lists for name in each))
    for name in columns:
        if name in TAKEN:
            raise UserError(
                f"--segment {name} (evaluation.segments): is always reported; name another column"
            )
    return columns


def segments(tables: Sequence[PredictionRows], column: str) -> Slicing:
    """Segments by a column, the same for all tables: few values, or ranges of a number.

    A number with at most `MOST_VALUES` values has a slice each; a count (whole, never negative) has
    ranges of round ends; another number has its quintiles in the first table. Of strings, the
    most frequent ones have a slice each and the rest is "other". Null is "unknown", as are NaN and
    infinities.
    """
    for table in tables:
        table.require(column, "--segment")
    kinds, name = [table.schema.field(column).type for table in tables], quoted(column)
    number = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
    if number:
        name = f"(CASE WHEN isfinite({name}::DOUBLE) THEN {name} END)"
    found = [
        dict(
            table.query(
                f"SELECT {name}::VARCHAR, count(*) FROM rows WHERE {name} IS NOT NULL "
                f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_VALUES + 1}"
            )
        )
        for table in tables
    ]
    values = {value: None for each in found for value in each}
    if number and (column == HISTORY_LENGTH or len(values) > MOST_VALUES):
        return _ranges(tables[0], column, name)
    if pa.types.is_boolean(kinds[0]):
        kept, shown = ["true", "false"], {"true": "yes", "false": "no"}
    else:
        kept = list(values)[:MOST_VALUES]
        kept = sorted(kept, key=float if number else None)
        shown = {}
    listed = ", ".join(text(value) for value in kept)
    other = len(kept) if len(values) > MOST_VALUES else "NULL"
    sql = (
        f"CASE WHEN {name} IS NULL THEN NULL "
        f"ELSE coalesce(list_position([{listed}]::VARCHAR[], {name}::VARCHAR) - 1, {other}) END"
    )
    labels = [shown.get(value, value) for value in kept]
    if other != "NULL":
        labels.append("other")
    return _with_unknown(tables, Slicing(column, tuple(labels), sql))


def _ranges(table: PredictionRows, column: str, name: str) -> Slicing:
    """Ranges of `column`, whose SQL is `name`."""
    [(low, high, whole)] = table.query(
        f"SELECT min({name}), max({name}), bool_and({name} = floor({name})) FROM rows"
    )
    if low is None:
        raise UserError(f"--segment {column}: {table.files[0]}: has no value in any row")
    if whole and low >= 0:
        ends = [end for end in COUNTS if end < high]
        lows = [0, *(end + 1 for end in ends)]
        tops = [*(str(end) for end in ends), "" if high > COUNTS[-1] else str(int(high))]
        labels = [
            f"{start}" if str(start) == top else f"{start}–{top}" if top else f"{start} or more"
            for start, top in zip(lows, tops, strict=True)
        ]
    else:
        shares = [0.2, 0.4, 0.6, 0.8]
        [(found,)] = table.query(f"SELECT quantile_cont({name}::DOUBLE, {shares}) FROM rows")
        ends = sorted(set(found))
        shown = [f"{end:.4g}" for end in ends]
        labels = [f"up to {shown[0]}"]
        labels += [f"{a} to {b}" for a, b in pairwise(shown)]
        labels.append(f"above {shown[-1]}")
    above = " + ".join(f"({name} > {end})::INTEGER" for end in ends) or "0"
    sql = f"CASE WHEN {name} IS NULL THEN NULL ELSE {above} END"
    return _with_unknown([table], Slicing(column, tuple(labels), sql))


def _with_unknown(tables: Sequence[PredictionRows], slicing: Slicing) -> Slicing:
    """Rows in no slice get one of their own, if there are any."""
    missing = sum(
        table.query(f"SELECT count(*) FROM rows WHERE ({slicing.sql}) IS NULL")[0][0]
        for table in tables
    )
    if not missing:
        return slicing
    sql = f"coalesce({slicing.sql}, {len(slicing.labels)})"
    return Slicing(slicing.name, (*slicing.labels, "unknown"), sql)


def by_day(tables: Sequence[PredictionRows], surface: bool = True) -> Slicing | None:
    """Surface × UTC day; more than `MOST_DAYS` days are put together. None without times.

    Labels are `SURFACE DAY`; with `surface` False they are `DAY`.
    """
    schema = tables[0].schema
    kind = schema.field("time").type if "time" in schema.names else pa.null()
    if pa.types.is_timestamp(kind):
        day = f'(epoch_ms("time"::TIMESTAMP) // {MS_A_DAY})'
    elif pa.types.is_integer(kind):
        day = f'("time" // {MS_A_DAY})'
    else:
        return None
    ends = [table.query(f"SELECT min({day}), max({day}) FROM rows")[0] for table in tables]
    if any(low is None for low, _ in ends):
        return None
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    width = -(-(last - first + 1) // MOST_DAYS)
    count = (last - first) // width + 1
    try:
        days = [(EPOCH + timedelta(first + i * width)).isoformat() for i in range(count)]
    except OverflowError:  # in microseconds, or no time at all
        return None
    sql = f"({day} - {first}) // {width}"
    if not surface:
        return Slicing("day", tuple(days), sql)
    labels = tuple(f"{name} {day}" for name in tables[0].surfaces for day in days)
    return Slicing("surface day", labels, f"{quoted(SURFACE)} * {count} + {sql}")

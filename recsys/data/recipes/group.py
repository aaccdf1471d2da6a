"""An impression-level log (one row a candidate shown) → a request table, in DuckDB.

Works on tables that do not fit in memory: users are split by hash into as many parts as keep one
part within the memory limit, and each part is one file of the result. So all requests of a user
are in one file, sorted by user and time.
"""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config.experiment import nearest
from recsys.config.group import GroupConfig
from recsys.data.recipes.group_sql import Part, group_sql
from recsys.errors import UserError
from recsys.files import whole_folder
from recsys.sql import first_line, opened, quoted, text

REQUESTS_A_ROW_GROUP = 8_192
# Lists under construction cannot be spilled to disk, so a part has to fit. Bytes of a value,
# with its share of lists, sort keys and hash tables.
BYTES_A_VALUE = 64


def group(
    table: str | Path,
    out: Path,
    options: GroupConfig,
    *,
    memory_limit: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Writes the request table of the impression log `table` to the folder `out`.

    A request has `request_id` (the log's, or numbers from 1), `surface`, `time` (int64, ms, of its
    first impression), the user, `request_columns`, `history` if asked for, and `candidates` with
    `candidate_columns` and one label a task.

    Args:
        table: A Parquet file, or a folder of them (sub-folders too).
        out: The request table, a folder of Parquet files; it must not exist yet.
        options: Which column of the log is what; see `GroupConfig`.
        memory_limit: e.g. `4GB`. Default: DuckDB's, 80 % of the memory. Beyond it DuckDB spills to
            a folder beside `out`.
        threads: Default: all cores.

    Returns:
        `{"impressions", "users", "requests", "files", "time": [first, last] in ms,
        "surfaces": {S: {"requests", "candidates"}}}`.

    Raises:
        UserError: no such table, or an empty or unreadable one; a missing column; a null user,
            time, surface or request; a request whose impressions disagree; a wrong
            `history.where`.
    """
    table, out = Path(table), Path(out)
    if out.exists():
        raise UserError(f"{out}: exists; remove it or choose another folder")
    files = _parquet_files(table)
    schemas = [_schema(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        _check_columns(file, schema, options)
    source = f"read_parquet([{', '.join(map(text, files))}], union_by_name = true)"
    time, flags = _expressions(schemas, options)

    with whole_folder(out) as beside, opened(table, memory_limit, threads) as database:
        spill = beside / ".spill"
        database.execute(f"SET temp_directory = {text(spill)}")
        impressions = _check_rows(database, table, source, options)
        count = _parts(database, impressions, len(options.columns))
        requests, written = 0, list[Path]()
        for index in range(count):
            file = beside / f"part-{len(written):05d}.parquet"
            sql = group_sql(
                options, source, time=time, flags=flags, part=Part(index, count, requests)
            )
            rows = database.execute(
                f"COPY ({sql}) TO {text(file)} (FORMAT parquet, COMPRESSION zstd, "
                f"ROW_GROUP_SIZE {REQUESTS_A_ROW_GROUP})"
            ).fetchall()[0][0]
            requests += rows
            if rows:
                written.append(file)
            else:  # no user fell into this part
                file.unlink()
        summary = _summary(database, written, options)
        database.close()
        shutil.rmtree(spill, ignore_errors=True)
    return summary


def _parquet_files(table: Path) -> list[Path]:
    if table.is_file():
        return [table]
    if not table.is_dir():
        raise UserError(f"{table}: no such file or folder; give a Parquet file or a folder of them")
    files = sorted(
        file
        for file in table.rglob("*.parquet")
        if not any(part.startswith((".", "_")) for part in file.relative_to(table).parts)
    )
    if not files:
        raise UserError(f"{table}: has no .parquet file; give a Parquet file or a folder of them")
    return files


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}: not readable as Parquet, it may be truncated: write it again ({reason})"
        ) from None


def _check_columns(file: Path, schema: pa.Schema, options: GroupConfig) -> None:
    for column, key in options.columns.items():
        if column not in schema.names:
            hint = nearest(column, schema.names)
            raise UserError(f"{file}: column {column} (data.group.{key}) is missing; {hint}")
    time = schema.field(options.time).type
    if not (pa.types.is_integer(time) or pa.types.is_timestamp(time)):
        raise UserError(
            f"{file}: column {options.time} (data.group.time) is {time}; "
            "it must be an integer (ms since epoch) or a timestamp"
        )
    for task, column in options.labels.items():
        kind = schema.field(column).type
        if not (
            pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        ):
            raise UserError(
                f"{file}: column {column} (data.group.labels.{task}) is {kind}; "
                "a label is 0, 1 or null"
            )


def _expressions(schemas: list[pa.Schema], options: GroupConfig) -> tuple[str, frozenset[str]]:
    """SQL of the time in ms, and the label columns that are booleans."""
    kinds = {_time_kind(schema.field(options.time).type) for schema in schemas}
    if len(kinds) > 1:
        raise UserError(
            f"column {options.time} (data.group.time): is {' and '.join(sorted(kinds))} "
            "in different files; write one type"
        )
    time = {
        "a number": "CAST({} AS BIGINT)",
        "a timestamp": "epoch_ms({})",
        # DuckDB has no epoch_ms of nanoseconds with a time zone.
        "a timestamp with a time zone": "epoch_ms(CAST({} AS TIMESTAMP WITH TIME ZONE))",
    }[kinds.pop()].format(quoted(options.time))
    flags = {
        column
        for column in options.labels.values()
        if all(pa.types.is_boolean(schema.field(column).type) for schema in schemas)
    }
    return time, frozenset(flags)


def _time_kind(kind: pa.DataType) -> str:
    if not pa.types.is_timestamp(kind):
        return "a number"
    return "a timestamp" if kind.tz is None else "a timestamp with a time zone"


def _check_rows(
    database: duckdb.DuckDBPyConnection, table: Path, source: str, options: GroupConfig
) -> int:
    """Number of impressions, at least 1; raises `UserError` where they cannot be grouped."""
    keys = {"user": options.user, "time": options.time, "surface": options.surface}
    if options.request:
        keys["request"] = options.request
    nulls = ", ".join(f"count(*) - count({quoted(column)})" for column in keys.values())
    rows, *counts = database.execute(f"SELECT count(*), {nulls} FROM {source}").fetchall()[0]
    if not rows:
        raise UserError(f"{table}: the table is empty; give a log that has impressions")
    for (key, column), count in zip(keys.items(), counts, strict=True):
        if count:
            raise UserError(
                f"{table}: column {column} (data.group.{key}) is null in {count} of {rows} rows; "
                "remove those rows or fill them in"
            )
    if options.history and options.history.where:
        where = options.history.where
        try:
            database.execute(f"SELECT 1 FROM {source} WHERE (\n{where}\n) LIMIT 0")
        except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException) as error:
            raise UserError(
                f"data.group.history.where: {where!r} is not a condition on the columns of "
                f"{table}: {first_line(error)}"
            ) from None
    if options.request:
        _check_requests(database, table, source, options)
    return rows


def _check_requests(
    database: duckdb.DuckDBPyConnection, table: Path, source: str, options: GroupConfig
) -> None:
    """The impressions of a request agree on everything that the request has once."""
    assert options.request is not None
    columns = list(dict.fromkeys([options.user, options.surface, *options.request_columns]))
    request = quoted(options.request)
    differs = ", ".join(
        # min and max pass over nulls, so a null beside a value is looked for by itself.
        f"min({quoted(c)}) IS DISTINCT FROM max({quoted(c)}) "
        f"OR count({quoted(c)}) NOT IN (0, count(*)) AS differs_{i}"
        for i, c in enumerate(columns)
    )
    counts = ", ".join(
        f"count(*) FILTER (WHERE differs_{i}), min(__request) FILTER (WHERE differs_{i})"
        for i in range(len(columns))
    )
    found = database.execute(
        f"SELECT {counts} FROM "
        f"(SELECT {request} AS __request, {differs} FROM {source} GROUP BY {request})"
    ).fetchall()[0]
    for column, count, example in zip(columns, found[::2], found[1::2], strict=True):
        if count:
            fix = (
                "it belongs in candidate_columns"
                if column in options.request_columns
                else "give each its own request, or leave data.group.request out and set gap"
            )
            raise UserError(
                f"{table}: column {column} differs between impressions of one request in {count} "
                f"requests, e.g. {options.request} = {example}: {fix}"
            )


def _parts(database: duckdb.DuckDBPyConnection, impressions: int, columns: int) -> int:
    """How many parts keep one part within half of the memory limit."""
    limit = database.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", limit).groups()  # type: ignore[union-attr]
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    budget = float(number) * 1024 ** units.index(unit) / 2
    return max(1, math.ceil(impressions * columns * BYTES_A_VALUE / budget))


def _summary(
    database: duckdb.DuckDBPyConnection, files: list[Path], options: GroupConfig
) -> dict[str, Any]:
    source = f"read_parquet([{', '.join(map(text, files))}])"
    surfaces = database.execute(
        f"SELECT surface, count(*), CAST(sum(len(candidates)) AS BIGINT) FROM {source} "
        "GROUP BY surface ORDER BY surface"
    ).fetchall()
    users, first, last = database.execute(
        f"SELECT count(DISTINCT {quoted(options.user)}), min(time), max(time) FROM {source}"
    ).fetchall()[0]
    return {
        "impressions": sum(candidates for _, _, candidates in surfaces),
        "users": users,
        "requests": sum(requests for _, requests, _ in surfaces),
        "files": len(files),
        "time": [first, last],
        "surfaces": {
            surface: {"requests": requests, "candidates": candidates}
            for surface, requests, candidates in surfaces
        },
    }

"""The SQL that turns impressions into requests: one statement, in DuckDB's dialect.

For a cluster, print it with `group_sql` and translate what is DuckDB's own:

| here | Spark | Trino |
|---|---|---|
| `file_index`, `file_row_number` | any column that orders impressions of equal time | same |
| `hash(u) % n` | `pmod(xxhash64(u), n)` | not needed |
| `list(x ORDER BY k)` | `array_sort(collect_list(struct(k, x)))` | `array_agg(x ORDER BY k)` |
| `struct_pack(a := b)` | `named_struct('a', b)` | `CAST(ROW(b) AS ROW(a bigint))` |
| `list_slice(l, i, j)` | `slice(l, i, j - i + 1)` | `slice(l, i, j - i + 1)` |
| `list_transform(l, lambda e: x)` | `transform(l, e -> x)` | `transform(l, e -> x)` |
| `list_concat(a, b)`, `a // b` | `concat(a, b)`, `a div b` | `concat(a, b)`, `a / b` |
"""

from dataclasses import dataclass

from recsys.config.group import GroupConfig
from recsys.sql import quoted


@dataclass(frozen=True)
class Part:
    """The share `index` of `count` of the users, by hash; its requests are numbered from `first`.

    `first` matters only where the log does not name the requests.
    """

    index: int = 0
    count: int = 1
    first: int = 0


def group_sql(
    options: GroupConfig,
    source: str,
    *,
    time: str | None = None,
    flags: frozenset[str] = frozenset(),
    part: Part | None = None,
) -> str:
    """The statement that selects the request table from an impression log.

    Args:
        options: Which column is what.
        source: SQL of the log, e.g. `read_parquet(['log.parquet'])`.
        time: SQL of an impression's time in ms. Default: the column itself.
        flags: Label columns of type boolean; they become 0 and 1.
        part: Default: all users.
    """
    part = part or Part()
    steps = [
        _log(options, source, time or quoted(options.time), part),
        _counted(options),
        _impressions(options),
        _requests(options, flags),
    ]
    if options.history:
        steps.append(_blocks(options))
    return "WITH\n" + ",\n".join(steps) + "\n" + _select(options, part)


def _log(options: GroupConfig, source: str, time: str, part: Part) -> str:
    columns = ", ".join(quoted(column) for column in options.columns)
    history = options.history
    is_event = "0"
    if history:
        # On a line of its own, so that a comment at its end stays a comment.
        is_event = f"CASE WHEN (\n{history.where}\n) THEN 1 ELSE 0 END" if history.where else "1"
    users = f"hash({quoted(options.user)}) % {part.count} = {part.index}"
    return f"""\
-- The log: one row an impression, times in ms. Names that begin with __ are not the log's.
-- __row is the place in the log: it orders impressions of equal time, the same way in each run.
log AS (
    SELECT
        {columns},
        {quoted(options.user)} AS __user,
        {time} AS __time,
        CAST({quoted(options.surface)} AS VARCHAR) AS __surface,
        CAST(file_index AS BIGINT) * 1099511627776 + file_row_number AS __row,
        {is_event} AS __is_event
    FROM {source}
    WHERE {users if part.count > 1 else "TRUE"}
)"""


def _counted(options: GroupConfig) -> str:
    if not options.history:
        return "counted AS (SELECT * FROM log)"
    return """\
-- How many events of its user, on any surface, are strictly before an impression (__known); and, if
-- it is an event itself, which one in the order of time (__event, from 0).
counted AS (
    SELECT
        *,
        CAST(coalesce(sum(__is_event) OVER (
            PARTITION BY __user ORDER BY __time
            RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS BIGINT) AS __known,
        CAST(sum(__is_event) OVER (
            PARTITION BY __user ORDER BY __time, __row
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS BIGINT) - 1 AS __event
    FROM log
)"""


def _impressions(options: GroupConfig) -> str:
    if options.request:
        return f"""\
-- The log names the request of each impression.
impressions AS (
    SELECT *, {quoted(options.request)} AS __request FROM counted
)"""
    return f"""\
-- A request begins at the first impression of a user on a surface and after each pause longer than
-- the gap. Counting the beginnings numbers the requests of a user on a surface.
marked AS (
    SELECT
        *,
        CASE
            WHEN __time - lag(__time) OVER (
                PARTITION BY __user, __surface ORDER BY __time, __row
            ) <= {round(options.gap * 1000)} THEN 0
            ELSE 1
        END AS __begins
    FROM counted
),
impressions AS (
    SELECT
        *,
        sum(__begins) OVER (
            PARTITION BY __user, __surface ORDER BY __time, __row
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS __request
    FROM marked
)"""


def _requests(options: GroupConfig, flags: frozenset[str]) -> str:
    candidate = [f"{quoted(c)} := {quoted(c)}" for c in options.candidate_columns]
    for task, column in options.labels.items():
        value = f"CAST({quoted(column)} AS TINYINT)" if column in flags else quoted(column)
        candidate.append(f"{quoted(task)} := {value}")
    order = f"{quoted(options.position)} NULLS LAST, __n" if options.position else "__n"
    columns = [
        f"any_value({quoted(column)}) FILTER (WHERE __n = 1) AS {quoted(column)}"
        for column in _request_columns(options)
    ]
    if options.history:
        columns.append("min(__known) AS __known")
    return f"""\
-- The first impression of a request has __n = 1.
ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY __user, __surface, __request ORDER BY __time, __row
        ) AS __n
    FROM impressions
),
requests AS (
    SELECT
        __user,
        __surface,
        __request,
        min(__time) AS __time,
        {"".join(f"{column},{_LINE}" for column in columns)}list(
            struct_pack({", ".join(candidate)})
            ORDER BY {order}
        ) AS candidates
    FROM ranked
    GROUP BY __user, __surface, __request
)"""


def _blocks(options: GroupConfig) -> str:
    assert options.history is not None
    length = options.history.length
    fields = [f"{quoted(f)} := {quoted(c)}" for f, c in options.history.fields.items()]
    return f"""\
-- Each user's events in blocks of {length}: the latest {length} before any request lie in
-- two of them. (Joining each request with all events of its user would cost their product.)
blocks AS (
    SELECT
        __user,
        __event // {length} AS __block,
        list(
            struct_pack(__time := __time, {", ".join(fields)})
            ORDER BY __event
        ) AS __events
    FROM counted
    WHERE __is_event = 1
    GROUP BY __user, __event // {length}
)"""


def _select(options: GroupConfig, part: Part) -> str:
    request_id = "r.__request"
    if not options.request:
        request_id = f"{part.first} + row_number() OVER (ORDER BY r.__user, r.__time, r.__surface)"
    columns = "".join(f"r.{quoted(column)},{_LINE[:-4]}" for column in _request_columns(options))
    history, joins = "", ""
    if options.history:
        length = options.history.length
        fields = [f"{quoted(field)} := e.{quoted(field)}" for field in options.history.fields]
        if options.history.age:
            fields.append("age := r.__time - e.__time")
        # In the latest block, (__known - 1) % length + 1 events are known.
        history = f"""\
-- What is known of the latest block, after as much of the block before it as there is room for.
    list_transform(
        list_concat(
            coalesce(list_slice(earlier.__events, (r.__known - 1) % {length} + 2, {length}), []),
            coalesce(list_slice(latest.__events, 1, (r.__known - 1) % {length} + 1), [])
        ),
        lambda e: struct_pack({", ".join(fields)})
    ) AS history,
    """
        joins = f"""
-- A request without a known event has no block; no block has a number below 0.
LEFT JOIN blocks AS latest
    ON latest.__user = r.__user
    AND latest.__block = CASE WHEN r.__known > 0 THEN (r.__known - 1) // {length} END
LEFT JOIN blocks AS earlier
    ON earlier.__user = r.__user
    AND earlier.__block = CASE WHEN r.__known > 0 THEN (r.__known - 1) // {length} END - 1"""
    return f"""\
SELECT
    {request_id} AS request_id,
    r.__surface AS surface,
    r.__time AS time,
    r.__user AS {quoted(options.user)},
    {columns}{history}r.candidates
FROM requests AS r{joins}
-- By user, so that histories that repeat from request to request compress away.
ORDER BY r.__user, r.__time, r.__surface, 1
"""


def _request_columns(options: GroupConfig) -> list[str]:
    """The request's features besides the user, who is always there."""
    return [column for column in options.request_columns if column != options.user]


_LINE = "\n        "

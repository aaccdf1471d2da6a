"""Reads the official CSV files strictly: a wrong value is named, never guessed around."""

from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np

from recsys.data.recipes.kuairand.options import TASKS
from recsys.errors import UserError

MAIN_LOG = "log_standard_4_22_to_5_08_pure.csv"
EARLIER_LOG = "log_standard_4_08_to_4_21_pure.csv"
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
PRIOR = "prior_sequences.parquet"

# Present in the official folder and left alone on purpose.
NEVER_READ = {
    "log_random_4_22_to_5_08_pure.csv": "random exposure, another policy and another question",
    "video_features_statistic_pure.csv": "averages over the whole month, the test days included",
}

LOG_KEY = ("user_id", "video_id", "time_ms", "tab")
LOG_INTEGERS = (*LOG_KEY, "date", "duration_ms", "play_time_ms")
USER_STRINGS = (
    "user_active_degree",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USER_INTEGERS = (
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_IDS = ("author_id", "music_id")
VIDEO_STRINGS = ("video_type", "upload_type")
VIDEO_NUMBERS = ("music_type", "server_width", "server_height")
VIDEO_DURATION = "video_duration"

Columns = dict[str, np.ndarray]


@dataclass
class RawFiles:
    """Where the files of one download are; a file that is not there is None."""

    logs: list[Path]
    users: Path | None
    videos: Path | None
    prior: Path | None
    found: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)
    not_used: dict[str, str] = field(default_factory=dict)


def find_files(raw: Path) -> RawFiles:
    """Looks for the official files in RAW/data and in RAW.

    Raises:
        UserError: the folder or the main log is not there.
    """
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder; give the unpacked KuaiRand-Pure folder")
    folders = [folder for folder in (raw / "data", raw, raw.parent) if folder.is_dir()]
    # RAW may itself be the data folder; the prior sequences then lie one level up.
    places = {PRIOR: folders}

    def find(name: str) -> Path | None:
        for folder in places.get(name, [f for f in folders if f != raw.parent]):
            if (folder / name).is_file():
                return folder / name
        return None

    main = find(MAIN_LOG)
    if main is None:
        raise UserError(
            f"{raw}: found neither data/{MAIN_LOG} nor {MAIN_LOG}; "
            "give the unpacked KuaiRand-Pure folder"
        )
    paths = {name: find(name) for name in (EARLIER_LOG, MAIN_LOG, USERS, VIDEOS, PRIOR)}
    return RawFiles(
        logs=[path for name, path in paths.items() if path and name in (EARLIER_LOG, MAIN_LOG)],
        users=paths[USERS],
        videos=paths[VIDEOS],
        prior=paths[PRIOR],
        found=[name for name, path in paths.items() if path],
        not_found=[name for name, path in paths.items() if not path],
        not_used={name: why for name, why in NEVER_READ.items() if find(name)},
    )


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set threads = 2")
    connection.execute("set enable_progress_bar = false")
    return connection


def read_csv(path: Path, needed: tuple[str, ...]) -> duckdb.DuckDBPyRelation:
    """Every column as text, a row per line, plus `line` (1 = the header).

    Raises:
        UserError: a column is missing, or a line has another number of values than the header.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline().strip("\ufeff\r\n").split(",")
    missing = [column for column in needed if column not in header]
    if missing:
        raise UserError(
            f"{path}: column {missing[0]} is missing, the header has {', '.join(header[:6])}, …; "
            "use the official file unchanged"
        )
    connection = connect()
    types = dict.fromkeys(header, "VARCHAR")
    try:
        connection.execute(
            "create table lines as select * from read_csv(?, header=true, auto_detect=false, "
            "delim=',', quote='\"', escape='\"', columns=?, nullstr='', strict_mode=true)",
            [str(path), types],
        )
    except duckdb.Error as error:
        lines = str(error).splitlines()
        detail = next((line for line in lines if "Expected Number of Columns" in line), "")
        original = next((line for line in lines if line.startswith("Original Line")), lines[0])
        raise UserError(
            f"{path}: a line is not {len(header)} comma-separated values ({detail or 'CSV'}; "
            f"{original.strip()[:120]}): the file is cut or damaged, download it again"
        ) from None
    return connection.sql("select *, rowid + 2 as line from lines order by rowid")


def refuse(
    path: Path, lines: duckdb.DuckDBPyRelation, column: str, is_bad: str, expected: str
) -> None:
    """Raises UserError at the first line where the SQL condition `is_bad` holds."""
    rows = lines.filter(is_bad).order("line").project(f'line, "{column}"').limit(1).fetchall()
    for line, value in rows:
        shown = "empty" if value is None else repr(value)
        raise UserError(
            f"{path}: line {line}, column {column} is {shown}, expected {expected}; "
            "correct the line or download the file again"
        )


def integers(
    path: Path, lines: duckdb.DuckDBPyRelation, columns: tuple[str, ...], binary: bool = False
) -> Columns:
    """The columns as int64; raises UserError at the first value that is no integer (or 0/1)."""
    pattern, expected = ("[01]", "0 or 1") if binary else ("-?[0-9]{1,18}", "an integer")
    for column in columns:
        is_bad = f'"{column}" is null or not regexp_full_match("{column}", \'{pattern}\')'
        refuse(path, lines, column, is_bad, expected)
    wanted = ", ".join(f'cast("{c}" as bigint) as "{c}"' for c in columns)
    return {name: np.ascontiguousarray(v) for name, v in lines.project(wanted).fetchnumpy().items()}


def numbers(path: Path, lines: duckdb.DuckDBPyRelation, columns: tuple[str, ...]) -> Columns:
    """The columns as float64, NaN where empty; raises UserError at a value that is no number."""
    for column in columns:
        number = f'try_cast("{column}" as double)'
        is_bad = f'"{column}" is not null and coalesce(not isfinite({number}), true)'
        refuse(path, lines, column, is_bad, "a number or nothing")
    wanted = ", ".join(f'cast("{c}" as double) as "{c}"' for c in columns)
    return {
        name: np.ma.filled(np.ma.asarray(v, dtype=np.float64), np.nan)
        for name, v in lines.project(wanted).fetchnumpy().items()
    }


def strings(lines: duckdb.DuckDBPyRelation, columns: tuple[str, ...]) -> Columns:
    """The columns as object arrays of str, None where empty."""
    texts = {}
    for column in columns:
        values = [row[0] for row in lines.project(f'"{column}"').fetchall()]
        texts[column] = np.array(values, dtype=object)
    return texts


def read_log(path: Path) -> Columns:
    """One log file: int64 columns `LOG_INTEGERS` and the tasks' columns under the tasks' names.

    Play time is an outcome, as the tasks are: what it was counts once the event is past. Stay times
    are outcomes too and `hourmin` is the hour at which the row was logged, often the one after the
    impression: they are not read.
    """
    lines = read_csv(path, (*LOG_INTEGERS, *TASKS.values()))
    if not lines.limit(1).fetchall():
        raise UserError(f"{path}: the log is empty; download the file again")
    log = integers(path, lines, LOG_INTEGERS)
    labels = integers(path, lines, tuple(TASKS.values()), binary=True)
    return log | {task: labels[column] for task, column in TASKS.items()}


def _unique(path: Path, column: str, ids: np.ndarray) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{path}: {column} {values[counts > 1][0]} appears {counts.max()} times, expected "
            "one line each; remove the repeated line"
        )


def read_users(path: Path) -> Columns:
    """User features: `user_id` int64, strings as objects, everything else float64 with NaN."""
    lines = read_csv(path, ("user_id", *USER_STRINGS, *USER_NUMBERS, *USER_INTEGERS))
    users = integers(path, lines, ("user_id",))
    _unique(path, "user_id", users["user_id"])
    return (
        users | strings(lines, USER_STRINGS) | numbers(path, lines, (*USER_NUMBERS, *USER_INTEGERS))
    )


def read_videos(path: Path) -> Columns:
    """Video features; `upload_day` is days since 1970-01-01, `tags` an object array of strings."""
    needed = (
        "video_id",
        *VIDEO_IDS,
        *VIDEO_STRINGS,
        *VIDEO_NUMBERS,
        VIDEO_DURATION,
        "upload_dt",
        "tag",
    )
    lines = read_csv(path, needed)
    videos = integers(path, lines, ("video_id", *VIDEO_IDS))
    _unique(path, "video_id", videos["video_id"])
    bad_tag = "tag is not null and not regexp_full_match(tag, '[0-9]+(,[0-9]+)*')"
    refuse(path, lines, "tag", bad_tag, "integers separated by commas, or nothing")
    bad_day = "upload_dt is not null and try_cast(upload_dt as date) is null"
    refuse(path, lines, "upload_dt", bad_day, "YYYY-MM-DD or nothing")
    day = lines.project("epoch(cast(upload_dt as date)) / 86400.0 as upload_day").fetchnumpy()
    return (
        videos
        | strings(lines, (*VIDEO_STRINGS, "tag"))
        | numbers(path, lines, (*VIDEO_NUMBERS, VIDEO_DURATION))
        | {"upload_day": np.ma.filled(np.ma.asarray(day["upload_day"], dtype=float), np.nan)}
    )

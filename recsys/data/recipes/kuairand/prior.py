"""What users watched before the log begins, and aggregates of it.

All of it is older than any request, so the aggregates are causal for every one of them.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from recsys.data.recipes.kuairand.causal import dense_codes
from recsys.data.recipes.kuairand.options import KuaiRandOptions
from recsys.data.recipes.kuairand.read import Columns, connect
from recsys.errors import UserError

# Watches of a user, as many as the prior sequences keep.
LENGTH = 50


@dataclass
class Prior:
    """Watched videos, `[P]` each, sorted by user, oldest first.

    Attributes:
        user, video: ids.
        long_view, like: 0/1 of each watched video.
        older_user, older_video: long-viewed videos from before the watched ones.
    """

    user: np.ndarray
    video: np.ndarray
    long_view: np.ndarray
    like: np.ndarray
    older_user: np.ndarray
    older_video: np.ndarray


def _flat(
    connection: duckdb.DuckDBPyConnection, path: Path, column: str
) -> tuple[np.ndarray, np.ndarray]:
    rows = connection.execute(
        f"select user_id, unnest({column}) as video, generate_subscripts({column}, 1) as place "
        "from read_parquet(?) order by user_id, place",
        [str(path)],
    ).fetchnumpy()
    for name in ("user_id", "video"):
        if np.ma.is_masked(rows[name]):
            raise UserError(
                f"{path}: column {column if name == 'video' else name} holds a null, expected "
                "ids only; use the file unchanged"
            )
    return np.asarray(rows["user_id"], np.int64), np.asarray(rows["video"], np.int64)


def _count_back(code: np.ndarray) -> np.ndarray:
    """0 for the last element of each code, 1 for the one before it, and so on."""
    order = np.argsort(code, kind="stable")
    stop = np.searchsorted(code[order], code[order], side="right")
    back = np.empty(len(code), dtype=np.int64)
    back[order] = stop - 1 - np.arange(len(code))
    return back


def read_prior(path: Path) -> Prior:
    """Reads `prior_sequences.parquet` and puts the likes and long views onto the watched videos.

    The file has three lists a user and does not say which watch a long view belongs to: of a
    video watched n times and long-viewed m times, the last m are taken to be the long views.
    """
    connection = connect()
    try:
        schema = dict(
            connection.execute(
                "select column_name, column_type from (describe select * from read_parquet(?))",
                [str(path)],
            ).fetchall()
        )
    except duckdb.Error as error:
        raise UserError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0][:100]}); copy it "
            "again or remove it"
        ) from None
    wanted = {"user_id": "BIGINT"} | dict.fromkeys(
        ("watch_seq", "like_seq", "long_watch_seq"), "BIGINT[]"
    )
    for column, kind in wanted.items():
        if schema.get(column) not in (kind, kind.replace("BIGINT", "INTEGER")):
            raise UserError(
                f"{path}: column {column} is {schema.get(column, 'missing')}, expected {kind}; "
                "use the file unchanged or remove it"
            )
    user, video = _flat(connection, path, "watch_seq")
    marks, older = {}, (user[:0], video[:0])
    for name, column in (("long_view", "long_watch_seq"), ("like", "like_seq")):
        other_user, other_video = _flat(connection, path, column)
        code = dense_codes(np.concatenate([user, other_user]), np.concatenate([video, other_video]))
        watched, other = code[: len(user)], code[len(user) :]
        n = int(code.max(initial=-1)) + 1
        marks[name] = (_count_back(watched) < np.bincount(other, minlength=n)[watched]).astype(
            np.int64
        )
        if name == "long_view":
            unmatched = _count_back(other) >= np.bincount(watched, minlength=n)[other]
            older = (other_user[unmatched], other_video[unmatched])
    return Prior(user, video, marks["long_view"], marks["like"], *older)


def prior_of_log(log: Columns, options: KuaiRandOptions) -> Prior:
    """The same from log rows older than the first request: a click is taken as a watch."""
    rows = np.flatnonzero((log["date"] < options.train_first) & (log["click"] == 1))
    rows = rows[np.argsort(log["user_id"][rows], kind="stable")]
    rows = rows[_count_back(log["user_id"][rows]) < LENGTH]
    none = rows[:0]
    return Prior(
        log["user_id"][rows],
        log["video_id"][rows],
        log["long_view"][rows],
        log["like"][rows],
        none,
        none,
    )

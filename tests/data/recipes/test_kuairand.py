"""The request table that the KuaiRand recipe writes, and its errors."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.recipes.kuairand import KuaiRandOptions, build
from recsys.data.recipes.kuairand.prior import read_prior
from recsys.data.recipes.kuairand.read import EARLIER_LOG, MAIN_LOG, PRIOR, USERS, VIDEOS
from recsys.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "data" / "kuairand_pure"
NOON = 1_650_859_200_000  # 25 April 2022, 12:00 in Beijing
DAY = 86_400_000
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
USER_HEADER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
    "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
    "friend_user_num_range,register_days,register_days_range,"
    + ",".join(f"onehot_feat{i}" for i in range(18))
)
VIDEO_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
    "server_width,server_height,music_id,music_type,tag"
)


def row(user: int, video: int, time_ms: int, tab: int, click: int = 0, date: int = 0) -> str:
    date = date or 20220425 + (time_ms - NOON + DAY // 2) // DAY
    return f"{user},{video},{date},1200,{time_ms},{click},0,0,0,0,0,{click},9,20000,0,0,0,0,{tab}"


ROWS = [
    row(1, 10, NOON, 1, click=1),
    row(1, 11, NOON + 4_000, 1),  # the same request
    row(1, 11, NOON + 4_000, 1),  # logged twice
    row(1, 12, NOON + 60_000, 1),  # a request of its own
    row(1, 10, NOON + 61_000, 0),  # another surface
    row(2, 10, NOON + 62_000, 3),  # not a surface
    row(1, 10, NOON + DAY, 6, click=1),  # valid
    row(2, 12, NOON + 2 * DAY, 1),  # test
    row(1, 13, NOON + 2 * DAY + 1, 4),  # test; a user and a video that no table has
]
SPLITS = KuaiRandOptions(valid_first=20220426, test_first=20220427, test_last=20220427)


def write(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    write(raw / "data" / MAIN_LOG, LOG_HEADER, ROWS)
    write(
        raw / "data" / USERS,
        USER_HEADER,
        ['2,full_active,0,-124,1,514,500+,150,"[100,1k)",34,"[30,60)",799,730+' + ",1" * 17 + ","],
    )
    write(
        raw / "data" / VIDEOS,
        VIDEO_HEADER,
        [
            f"{video},{video % 2},NORMAL,2022-04-10,Web,0.0,20000.0,720,1280,5,,{tag}"
            for video, tag in ((10, '"39,2"'), (11, "7"), (12, ""))
        ],
    )
    prior = {"user_id": [1, 2], "watch_seq": [[10, 11, 10, 12], []]}
    prior |= {"like_seq": [[12], []], "long_watch_seq": [[77, 10], []]}
    pq.write_table(pa.table(prior, prior_schema()), raw / PRIOR)
    return raw


def prior_schema() -> pa.Schema:
    lists = [(f"{n}_seq", pa.list_(pa.int64())) for n in ("watch", "like", "long_watch")]
    return pa.schema([("user_id", pa.int64()), *lists])


def test_requests_surfaces_and_splits(raw: Path, tmp_path: Path) -> None:
    summary = build(raw, tmp_path / "out", SPLITS)
    train = pq.read_table(tmp_path / "out" / "train").to_pylist()
    shown = [
        (r["user_id"], r["surface"], r["time"], [c["video_id"] for c in r["candidates"]])
        for r in train
    ]
    assert shown == [
        (1, "tab1", NOON, [10, 11]),
        (1, "tab1", NOON + 60_000, [12]),
        (1, "tab0", NOON + 61_000, [10]),
    ]
    assert [c["click"] for c in train[0]["candidates"]] == [1, 0]
    assert train[0]["candidates"][0]["tag"] == [39, 2]
    assert train[1]["candidates"][0]["tag"] is None
    assert summary["repeated_rows_dropped"] == 1
    assert summary["rows_without_request"] == 1
    assert summary["not_found"] == [EARLIER_LOG]
    assert summary["splits"]["valid"] == {
        "tab6": {
            "requests": 1,
            "candidates": 1,
            "positives": {"click": 1, "long_view": 1, "like": 0, "profile_enter": 0},
        }
    }
    assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == summary


def test_history_is_prior_watches_then_earlier_events(raw: Path, tmp_path: Path) -> None:
    build(raw, tmp_path / "out", SPLITS)
    first, second, _ = pq.read_table(tmp_path / "out" / "train").to_pylist()
    # Of two watches of video 10 and one long view, the later watch is the long view; the long
    # view of 77 is older than the watches.
    assert [(e["video_id"], e["action"]) for e in first["history"]] == [
        (10, 1),
        (11, 1),
        (10, 1 + 2),
        (12, 1 + 4),
    ]
    assert all(e["tab"] is None and e["age_hours"] is None for e in first["history"])
    assert [(e["video_id"], e["action"], e["tab"]) for e in second["history"][4:]] == [
        (10, 1 + 2, 1),
        (11, 0, 1),
    ]
    assert second["history"][4]["age_hours"] == pytest.approx(60 / 3600)
    (last, alone) = pq.read_table(tmp_path / "out" / "test").to_pylist()
    assert [e["tab"] for e in last["history"][-4:]] == [1, 1, 0, 6]
    assert [e["tab"] for e in alone["history"]] == [3]


def test_history_length_keeps_the_latest(raw: Path, tmp_path: Path) -> None:
    options = KuaiRandOptions(20220425, 20220426, 20220427, 20220427, history_length=3)
    build(raw, tmp_path / "out", options)
    last = pq.read_table(tmp_path / "out" / "valid").to_pylist()[0]
    assert [e["video_id"] for e in last["history"]] == [11, 12, 10]


def test_gap_and_other_tabs(raw: Path, tmp_path: Path) -> None:
    options = KuaiRandOptions(
        20220425, 20220426, 20220427, 20220427, request_gap_seconds=60, keep_other_tabs=True
    )
    build(raw, tmp_path / "out", options)
    train = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert [(r["surface"], len(r["candidates"])) for r in train] == [
        ("tab1", 3),
        ("tab0", 1),
        ("tab3", 1),
    ]


def test_every_option_is_one_of_the_command_line(raw: Path, tmp_path: Path) -> None:
    chosen = KuaiRandOptions(20220424, 20220426, 20220427, 20220428, 60.0, 3, keep_other_tabs=True)
    flags = (
        "--train-first=20220424 --valid-first=20220426 --test-first=20220427 --test-last=20220428 "
        "--request-gap=60 --history-length=3 --keep-other-tabs"
    )
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["data", "kuairand", str(raw), str(out), *flags.split()])
    assert done.exit_code == 0, done.output
    found = json.loads((out / "recipe.json").read_text())["options"]
    assert found == asdict(chosen)
    default, of_files = asdict(KuaiRandOptions()), {"requests_per_file", "requests_per_row_group"}
    assert {key for key in found if found[key] == default[key]} == of_files
    command: Any = get_command(app)
    offered = {p.name: p.default for p in command.commands["data"].commands["kuairand"].params}
    for key in found.keys() - of_files:
        assert offered[key.removesuffix("_seconds")] == default[key]


def test_rates_are_those_of_earlier_events(raw: Path, tmp_path: Path) -> None:
    build(raw, tmp_path / "out", SPLITS)
    first, second, third = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert first["user_past_count"] == 0
    assert second["user_past_count"] == 2
    assert third["user_past_count"] == 3
    # (1 click + 10 * the first guess .4) / (2 events + 10)
    assert second["user_past_click_rate"] == pytest.approx(5 / 12)
    # No event of an earlier day.
    assert second["user_day_count"] == 0
    assert third["candidates"][0]["video_past_count"] == 1
    assert third["candidates"][0]["user_video_hours_since_event"] == pytest.approx(61 / 3600)
    # At the first request nothing is known: the expectation is the round first guess.
    assert first["candidates"][0]["expected_click"] == pytest.approx(0.4)
    valid = pq.read_table(tmp_path / "out" / "valid").to_pylist()[0]
    assert valid["user_day_count"] == valid["user_past_count"] == 4


def test_schema_is_the_same_whatever_was_found(raw: Path, tmp_path: Path) -> None:
    build(raw, tmp_path / "all", SPLITS)
    for path in (raw / PRIOR, raw / "data" / USERS, raw / "data" / VIDEOS):
        path.unlink()
    summary = build(raw, tmp_path / "least", SPLITS)
    assert summary["not_found"] == [EARLIER_LOG, USERS, VIDEOS, PRIOR]
    schemas = [
        pq.read_schema(tmp_path / name / "test/part-00000.parquet") for name in ("all", "least")
    ]
    assert schemas[0] == schemas[1]


def test_the_data_folder_itself_will_do(raw: Path, tmp_path: Path) -> None:
    summary = build(raw / "data", tmp_path / "out", SPLITS)
    assert summary["found"] == [MAIN_LOG, USERS, VIDEOS, PRIOR]


def test_statistics_and_random_log_are_named_and_not_read(raw: Path, tmp_path: Path) -> None:
    (raw / "data" / "video_features_statistic_pure.csv").write_text("nonsense")
    summary = build(raw, tmp_path / "out", SPLITS)
    assert "month" in summary["not_used"]["video_features_statistic_pure.csv"]


def test_the_earlier_log_replaces_the_prior_sequences(raw: Path, tmp_path: Path) -> None:
    early = [row(1, 12, NOON - 17 * DAY, 1, click=1, date=20220408)]
    write(raw / "data" / EARLIER_LOG, LOG_HEADER, early)
    summary = build(raw, tmp_path / "out", SPLITS)
    assert summary["prior_sequences_from"] == "log"
    first = pq.read_table(tmp_path / "out" / "train").to_pylist()[0]
    assert [(e["video_id"], e["action"], e["tab"]) for e in first["history"]] == [(12, 3, 1)]
    assert first["user_past_count"] == 1
    assert first["prior_user_count"] == 1


def test_rows_that_the_prior_sequences_cover_are_counted_once(raw: Path, tmp_path: Path) -> None:
    covered = row(1, 12, NOON - DAY, 1, click=1, date=20220424)
    write(raw / "data" / MAIN_LOG, LOG_HEADER, [covered, *ROWS])
    summary = build(raw, tmp_path / "out", SPLITS)
    assert summary["rows_covered_by_prior_sequences"] == 1
    first = pq.read_table(tmp_path / "out" / "train").to_pylist()[0]
    assert len(first["history"]) == 4


def test_row_order_of_the_log_does_not_matter(raw: Path, tmp_path: Path) -> None:
    build(raw, tmp_path / "a", SPLITS)
    write(raw / "data" / MAIN_LOG, LOG_HEADER, ROWS[::-1])
    build(raw, tmp_path / "b", SPLITS)
    for split in ("train", "valid", "test"):
        assert pq.read_table(tmp_path / "a" / split) == pq.read_table(tmp_path / "b" / split)


def test_aligned_marks(raw: Path) -> None:
    prior = read_prior(raw / PRIOR)
    assert prior.long_view.tolist() == [0, 0, 1, 0]
    assert prior.like.tolist() == [0, 0, 0, 1]
    assert prior.older_video.tolist() == [77]


LOG = f"data/{MAIN_LOG}"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (LOG, "user_id,video_id", "user_id,video", "column video_id is missing"),
        (LOG, "1,10,2022", "x7,10,2022", "line 2, column user_id is 'x7', expected an integer"),
        (LOG, "1,10,2022", "1,,2022", "line 2, column video_id is empty, expected an integer"),
        (LOG, "1,10,2022", "1,1.5,2022", "line 2, column video_id is '1.5', expected an integer"),
        (LOG, "1,10,2022", "nan,10,2022", "line 2, column user_id is 'nan', expected an integer"),
        (LOG, f",{NOON},1,", f",{NOON},2,", "line 2, column is_click is '2', expected 0 or 1"),
        (LOG, ",0,0,0,0,4\n", ",0,0", "a line is not 19 comma-separated values"),
        (LOG, "\n".join(ROWS), "", "the log is empty"),
        (f"data/{USERS}", ",799,", ",many,", "line 2, column register_days is 'many', expected a"),
        (f"data/{USERS}", "\n2,", "\nu2,", "line 2, column user_id is 'u2', expected an integer"),
        (f"data/{VIDEOS}", '"39,2"', "39;2", "line 2, column tag is '39;2', expected integers"),
        (f"data/{VIDEOS}", "2022-04-10", "April", "line 2, column upload_dt is 'April', expected"),
        (f"data/{VIDEOS}", "\n11,", "\n10,", "video_id 10 appears 2 times"),
    ],
)
def test_a_wrong_value_is_named(
    raw: Path, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    text = (raw / file).read_text()
    assert old in text
    (raw / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        build(raw, tmp_path / "out", SPLITS)
    assert message in str(error.value)
    assert str(raw / file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_errors(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        build(tmp_path / "nowhere", tmp_path / "out")
    for dates, wanted in {
        (20230101, 20230102, 20230103, 20230104): "20230101 <= date < 20230102, the train split",
        (20220425, 20220426, 20230101, 20230102): "20230101 <= date < 20230103, the test split",
    }.items():
        with pytest.raises(
            UserError, match=f"column date has no row of the surfaces with {wanted}"
        ):
            build(raw, tmp_path / "out", KuaiRandOptions(*dates))
    with pytest.raises(UserError, match="not in order: give --train-first"):
        KuaiRandOptions(valid_first=20220420)
    with pytest.raises(UserError, match="--history-length is 0"):
        KuaiRandOptions(history_length=0)
    pq.write_table(pa.table({"user_id": [1]}), raw / PRIOR)
    with pytest.raises(UserError, match="column watch_seq is missing, expected BIGINT"):
        build(raw, tmp_path / "out", SPLITS)
    (raw / PRIOR).write_text("cut")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        build(raw, tmp_path / "out", SPLITS)
    (raw / "data" / MAIN_LOG).unlink()
    with pytest.raises(UserError, match=f"found neither data/{MAIN_LOG}"):
        build(raw, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        build(raw, tmp_path / "out")


@pytest.mark.slow
def test_real_test_days_join_one_to_one(tmp_path: Path) -> None:
    if not (REAL / "data" / MAIN_LOG).is_file():
        pytest.skip(f"KuaiRand-Pure is not at {REAL}")
    summary = build(REAL, tmp_path / "out")
    assert summary["rows"] == 222_444
    connection = duckdb.connect()
    connection.execute(
        # Of rows that repeat, the first in the file counts: a few repeats have another date.
        "create table raw as select user_id, video_id, time_ms, tab from (select *, row_number() "
        "over (partition by user_id, video_id, time_ms, tab order by line) as repeat from "
        f"(select *, row_number() over () as line from read_csv('{REAL}/data/{MAIN_LOG}'))) "
        "where repeat = 1 and date >= 20220506 and tab in (0, 1, 2, 4, 6)"
    )
    connection.execute(
        "create table ours as select user_id, tab, unnest(candidates, recursive := true) from "
        f"(select user_id, tab, candidates from '{tmp_path}/out/test/*.parquet')"
    )
    joined = connection.execute(
        "select count(*), count(distinct (user_id, video_id, time_ms, tab)) from ours "
        "join raw using (user_id, video_id, time_ms, tab)"
    ).fetchall()
    assert joined == [(41_840, 41_840)]
    assert connection.execute("select count(*) from ours").fetchall() == [(41_840,)]
    assert connection.execute("select count(*) from raw").fetchall() == [(41_840,)]

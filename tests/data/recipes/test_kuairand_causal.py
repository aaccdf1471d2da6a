"""No row at or after a request reaches its inputs: rows are deleted, added and changed at random,
and the inputs of every request up to the earliest of them have to stay the same to the byte."""

import csv
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.data.recipes.kuairand import KuaiRandOptions, causal, history, neighbours
from recsys.data.recipes.kuairand.build import make_request_table
from recsys.data.recipes.kuairand.options import TASKS
from recsys.data.recipes.kuairand.read import MAIN_LOG, PRIOR, USERS, VIDEOS

LOG_COLUMNS = [
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
]
OUTCOMES = ("is_click", "is_like", "is_follow", "is_comment", "long_view", "is_profile_enter")
REAL = Path(__file__).parents[4] / "shared" / "data" / "kuairand_pure"
# Parts of the names of columns that past outcomes, play time among them, have to reach.
CAUSAL_PARTS = (
    *("_past_", "_day_", "expected_", "_net_", "_last1_", "_last5_", "_last20_", "_latest"),
    *("session_click", "session_play", "_today_", "tab_24h_", "tab_hour_", "idle"),
    *("alike_", "like_duration", "nearest_", "affinity_past"),
)
SYNTHETIC_OPTIONS = KuaiRandOptions(
    valid_first=20220426, test_first=20220427, test_last=20220427, history_length=12
)

Row = dict[str, str]


def write_log(raw: Path, rows: list[Row]) -> None:
    with (raw / "data" / MAIN_LOG).open("w", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def random_row(rng: np.random.Generator, since: int, until: int, like: Row) -> Row:
    """Another row of the user, video or tab of `like`, so that it meets the same keys."""
    time = int(rng.integers(since, until + 1))
    row = like | {outcome: str(rng.integers(2)) for outcome in OUTCOMES}
    days = (time + 8 * 3_600_000) // 86_400_000 - 19_107  # 2022-04-25 is day 19,107
    row |= {"time_ms": str(time), "play_time_ms": str(rng.integers(90_000))}
    return row | {"date": str(20220425 + days if days < 6 else 20220501 + days - 6)}


def other_play(row: Row) -> str:
    """Another play time, on the other side of half the duration."""
    duration = int(row["duration_ms"])
    return "77" if int(row["play_time_ms"]) > duration // 2 else str(2 * duration + 4_000)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder of 30 users and 20 videos in three days, with many equal times."""
    raw = tmp_path_factory.mktemp("synthetic")
    (raw / "data").mkdir()
    rng = np.random.default_rng(11)
    first = 1_650_816_000_000 + 3_600_000  # 01:00 on 25 April, Beijing time
    blank = dict.fromkeys(LOG_COLUMNS, "0")
    rows = []
    for _ in range(900):
        video = int(rng.integers(20))
        row = blank | {"user_id": str(rng.integers(30)), "video_id": str(video)}
        row |= {"tab": str(rng.choice([0, 1, 1, 2, 3, 4, 6])), "duration_ms": str(3_000 * video)}
        row = random_row(rng, first, first + 70 * 3_600_000, row)
        # Steps of 5 s, and bursts: requests of several candidates, ties at a request's own time.
        row["time_ms"] = str(int(row["time_ms"]) // 5_000 * 5_000)
        rows.append(row)
        if rng.random() < 0.3:
            later = str(int(row["time_ms"]) + int(rng.choice([0, 5_000])))
            rows.append(row | {"video_id": str(rng.integers(20)), "time_ms": later})
    write_log(raw, rows)
    numbers = [f"onehot_feat{i}" for i in range(18)]
    ranges = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]
    names = ["user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer"]
    names += ["is_video_author", *ranges, *(f"{name}_range" for name in ranges), *numbers]
    lines = [",".join(names)] + [f"{u},full" + ",1" * (len(names) - 2) for u in range(28)]
    (raw / "data" / USERS).write_text("\n".join(lines) + "\n")
    lines = ["video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"]
    lines[0] += "server_width,server_height,music_id,music_type,tag"
    for v in range(19):
        tag = ["", "3", '"39,2"', "7"][v % 4]
        lines.append(f"{v},{v // 2},NORMAL,2022-04-10,Web,0.0,{v * 3000}.0,720,1280,5,9.0,{tag}")
    (raw / "data" / VIDEOS).write_text("\n".join(lines) + "\n")
    watched = [rng.integers(20, size=9).tolist() for _ in range(25)]
    prior = {"user_id": list(range(25)), "watch_seq": watched}
    prior |= {"like_seq": [w[:1] for w in watched], "long_watch_seq": [w[2:6] for w in watched]}
    pq.write_table(pa.table(prior), raw / PRIOR)
    return raw


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real files with the log and the prior sequences of 400 users."""
    if not (REAL / "data" / MAIN_LOG).is_file():
        pytest.skip(f"KuaiRand-Pure is not at {REAL}")
    raw = tmp_path_factory.mktemp("real")
    (raw / "data").mkdir()
    for name in (USERS, VIDEOS):
        (raw / "data" / name).symlink_to(REAL / "data" / name)
    users = np.random.default_rng(12).choice(27_285, 400, replace=False)
    keep = {str(user) for user in users}
    with (REAL / "data" / MAIN_LOG).open(newline="") as file:
        write_log(raw, [row for row in csv.DictReader(file) if row["user_id"] in keep])
    prior = pq.read_table(REAL / PRIOR)
    pq.write_table(prior.filter(pc.is_in(prior["user_id"], pa.array(users))), raw / PRIOR)
    return raw


def read_log_rows(raw: Path) -> list[Row]:
    with (raw / "data" / MAIN_LOG).open(newline="") as file:
        return list(csv.DictReader(file))


def mutate(rows: list[Row], seed: int) -> tuple[list[Row], int]:
    """The log with rows deleted, changed and added, and the earliest time this touches."""
    rng = np.random.default_rng(seed)
    times = np.array([int(row["time_ms"]) for row in rows])
    at = int(rng.choice(times))
    later = np.flatnonzero(times >= at)
    # One row, some, or all of what is later: single leaks and those of totals.
    count = [1, max(1, len(later) // 3), len(later)][seed % 3]
    # A row at the very moment is always among them.
    chosen = {int(np.flatnonzero(times == at)[0]), *rng.choice(later, count - 1, replace=False)}
    mutated, until = [], int(times.max())
    for i, row in enumerate(rows):
        kind = rng.choice(["delete", "outcomes", "move", "add"]) if i in chosen else "keep"
        if kind not in {"delete", "move"}:
            flip = {name: str(1 - int(row[name])) for name in OUTCOMES}
            more = {"play_time_ms": other_play(row), "comment_stay_time": "5"}
            more |= {"profile_stay_time": "5"}
            mutated.append(row | flip | more if kind == "outcomes" else row)
        if kind in {"move", "add"}:
            other = rows[int(rng.integers(len(rows)))]
            same = ("user_id", "tab") if rng.random() < 0.5 else ("video_id", "duration_ms")
            new = random_row(rng, at, until, row | {name: other[name] for name in same})
            if rng.random() < 0.2:
                new |= {"time_ms": str(at)}
            mutated.append(new)
    return [mutated[i] for i in rng.permutation(len(mutated))], at


def to_bytes(column: pa.ChunkedArray) -> bytes:
    """Values and validity; what lies under a null is part of it."""
    sink = pa.BufferOutputStream()
    table = pa.table({"column": column.combine_chunks()})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def inputs(table: pa.Table, until: int) -> tuple[pa.Table, pa.Table]:
    """(requests with their history, candidates without labels) of requests up to `until`."""
    table = table.filter(pc.less_equal(table["time"], until))
    candidates = table["candidates"].combine_chunks()
    flat = candidates.flatten()
    columns = {field.name: flat.field(field.name) for field in flat.type if field.name not in TASKS}
    request_id = table["request_id"].take(pc.list_parent_indices(candidates))
    key = [
        f"{r}/{v}/{t}"
        for r, v, t in zip(
            request_id.to_pylist(),
            columns["video_id"].to_pylist(),
            columns["time_ms"].to_pylist(),
            strict=True,
        )
    ]
    return table.drop_columns("candidates"), pa.table({"request_id": key} | columns)


def check_same(before: pa.Table, after: pa.Table, what: str) -> int:
    """Compares the rows that both tables have; returns how many of `before` were compared."""
    ids = [table["request_id"].to_numpy() for table in (before, after)]
    assert len(set(ids[0])) == len(ids[0])
    assert len(set(ids[1])) == len(ids[1])
    _, left, right = np.intersect1d(*ids, return_indices=True)
    for name in before.column_names:
        old, new = before[name].take(pa.array(left)), after[name].take(pa.array(right))
        assert to_bytes(old) == to_bytes(new), f"{what}: {name} of {first_difference(old, new)}"
    return len(left)


def first_difference(old: pa.ChunkedArray, new: pa.ChunkedArray) -> str:
    pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
    return next((f"row {i}: {a} became {b}" for i, (a, b) in enumerate(pairs) if a != b), "bytes")


def check_no_leak(raw: Path, options: KuaiRandOptions, seeds: range, folder: Path) -> None:
    base, _ = make_request_table(raw, options)
    rows = read_log_rows(raw)
    compared = 0
    for seed in seeds:
        copy = folder / str(seed)
        (copy / "data").mkdir(parents=True)
        for name in (f"data/{USERS}", f"data/{VIDEOS}", PRIOR):
            (copy / name).symlink_to(raw / name)
        mutated, at = mutate(rows, seed)
        write_log(copy, mutated)
        table, _ = make_request_table(copy, options)
        what = f"seed {seed}, rows from {at} on"
        (old, old_candidates), (new, new_candidates) = inputs(base, at), inputs(table, at)
        same = check_same(old, new, what)
        # A request is lost only if its first impression is: those of that very moment.
        exactly_then = pc.sum(pc.equal(old["time"], at)).as_py() or 0
        assert same >= len(old) - exactly_then, f"{what}: requests are missing"
        check_same(old_candidates, new_candidates, what)
        compared += same
    assert compared > 1000, "the moments chosen leave too few requests to compare"


def test_later_rows_leave_inputs_alone(synthetic: Path, tmp_path: Path) -> None:
    check_no_leak(synthetic, SYNTHETIC_OPTIONS, range(18), tmp_path)


def test_later_rows_leave_inputs_alone_with_wide_requests(synthetic: Path, tmp_path: Path) -> None:
    options = KuaiRandOptions(
        valid_first=20220426, test_first=20220427, test_last=20220427, request_gap_seconds=36_000
    )
    check_no_leak(synthetic, options, range(100, 109), tmp_path)


def test_later_rows_of_the_real_log_leave_inputs_alone(real: Path, tmp_path: Path) -> None:
    check_no_leak(real, KuaiRandOptions(), range(200, 209), tmp_path)


def test_a_rate_that_sees_the_request_itself_is_caught(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = causal.CausalSums.slices
    monkeypatch.setattr(
        causal.CausalSums, "slices", lambda self, code, before, *a: strict(self, code, before + 1)
    )
    with pytest.raises(AssertionError, match="became"):
        check_no_leak(synthetic, SYNTHETIC_OPTIONS, range(9), tmp_path)


@pytest.mark.parametrize("module", [history, neighbours])
def test_events_that_hold_the_request_itself_are_caught(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    search = np.searchsorted

    class Inclusive:
        """numpy, but every search for a place to the left is one to the right of equal keys."""

        def __getattr__(self, name: str) -> object:
            return getattr(np, name)

        @staticmethod
        def searchsorted(a: np.ndarray, v: np.ndarray, side: str = "left") -> np.ndarray:
            is_key = len(a) and int(a[-1]) > 10**12
            return search(a, v, side="right" if is_key else side)

    monkeypatch.setattr(module, "np", Inclusive())
    with pytest.raises(AssertionError, match=r"history of|became"):
        check_no_leak(synthetic, SYNTHETIC_OPTIONS, range(9), tmp_path)


def test_earlier_rows_do_reach_inputs(synthetic: Path, tmp_path: Path) -> None:
    """The other way round: without this, a table of constants would pass the tests above."""
    base, _ = make_request_table(synthetic, SYNTHETIC_OPTIONS)
    rows = sorted(read_log_rows(synthetic), key=lambda row: int(row["time_ms"]))
    (tmp_path / "data").mkdir()
    for name in (f"data/{USERS}", f"data/{VIDEOS}", PRIOR):
        (tmp_path / name).symlink_to(synthetic / name)
    early = [
        row
        | {name: str(1 - int(row[name])) for name in OUTCOMES}
        | {"play_time_ms": other_play(row)}
        if i < 300
        else row
        for i, row in enumerate(rows)
    ]
    write_log(tmp_path, early)
    table, _ = make_request_table(tmp_path, SYNTHETIC_OPTIONS)
    for old, new in zip(inputs(base, 1 << 60), inputs(table, 1 << 60), strict=True):
        changed = {name for name in old.column_names if to_bytes(old[name]) != to_bytes(new[name])}
        causal_columns = {
            name
            for name in old.column_names
            if any(part in name for part in CAUSAL_PARTS) and not name.endswith("_count")
        } | ({"history"} & set(old.column_names))
        assert causal_columns
        assert causal_columns <= changed

"""Impressions → requests, against the same thing written with loops."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys.config.group import GroupConfig
from recsys.data.recipes import group as recipe
from recsys.data.recipes.group import group
from recsys.data.recipes.group_sql import group_sql
from recsys.errors import UserError


def config(**changes):
    document = {
        "user": "user_id",
        "time": "time_ms",
        "surface": "tab",
        "gap": 5,
        "request_columns": ["device"],
        "candidate_columns": ["video_id", "duration"],
        "labels": {"click": "is_click", "like": "liked"},
        "history": {
            "length": 3,
            "where": "is_click = 1",
            "fields": {"video_id": "video_id", "action": "tab"},
            "age": True,
        },
    }
    return GroupConfig.model_validate({**document, **changes})


def log(count=400, seed=0, users=6, span=300):
    """Few users and seconds: equal times, requests of several candidates, long histories."""
    generator = np.random.default_rng(seed)
    return {
        "user_id": generator.integers(0, users, count),
        "time_ms": generator.integers(0, span, count) * 1_000,
        "tab": generator.choice(["home", "search"], count),
        "device": [None if d == 2 else f"d{d}" for d in generator.integers(0, 3, count)],
        "video_id": generator.integers(0, 50, count),
        "duration": generator.random(count).astype(np.float32),
        "is_click": [None if c == 2 else int(c) for c in generator.integers(0, 3, count)],
        "liked": generator.integers(0, 2, count).astype(bool),
    }


def save(path, data):
    pq.write_table(data if isinstance(data, pa.Table) else pa.table(data), path)
    return path


def slow_group(data, options):
    """The request table without request_id, as rows sorted by user, time and surface."""
    rows = [
        {name: values[i] if isinstance(values, list) else values[i].item()
         for name, values in data.items()} | {"row": i}
        for i in range(len(data["user_id"]))
    ]  # fmt: skip
    rows.sort(key=lambda r: (r["time_ms"], r["row"]))
    requests, latest = [], {}
    for row in rows:
        key = (row["user_id"], row["tab"])
        if options.request:
            key = row[options.request]
            begins = key not in latest
        else:
            begins = (
                key not in latest
                or row["time_ms"] - latest[key][-1]["time_ms"] > options.gap * 1_000
            )
        if begins:
            latest[key] = []
            requests.append(latest[key])
        latest[key].append(row)
    table = []
    for shown in requests:
        first = shown[0]
        if options.position:
            shown = sorted(shown, key=lambda r: r[options.position])  # noqa: PLW2901
        found = {
            "surface": first["tab"],
            "time": first["time_ms"],
            "user_id": first["user_id"],
            "device": first["device"],
        }
        if options.history:
            events = [
                r
                for r in rows
                if r["user_id"] == first["user_id"]
                and r["time_ms"] < first["time_ms"]
                and r["is_click"] == 1
            ][-options.history.length :]
            found["history"] = [
                {
                    "video_id": r["video_id"],
                    "action": r["tab"],
                    "age": first["time_ms"] - r["time_ms"],
                }
                for r in events
            ]
        found["candidates"] = [
            {
                "video_id": r["video_id"],
                "duration": r["duration"],
                "click": r["is_click"],
                "like": int(r["liked"]),
            }
            for r in shown
        ]
        table.append(found)
    return sorted(table, key=lambda r: (r["user_id"], r["time"], r["surface"]))


def read(folder):
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"part-{i:05d}.parquet" for i in range(len(files))]
    return pa.concat_tables(pq.read_table(file) for file in files)


def rows_of(folder):
    rows = read(folder).drop_columns("request_id").to_pylist()
    return sorted(rows, key=lambda r: (r["user_id"], r["time"], r["surface"]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 3, 7, 1000])
def test_agrees_with_loops(tmp_path, seed, length):
    options = config(
        history={
            "length": length,
            "where": "is_click = 1",
            "fields": {"video_id": "video_id", "action": "tab"},
            "age": True,
        }
    )
    data = log(seed=seed, span=(60, 300, 3_000, 150)[seed])
    group(save(tmp_path / "log.parquet", data), tmp_path / "out", options, threads=1)
    expected = slow_group(data, options)
    assert rows_of(tmp_path / "out") == expected
    # The sample has what it is meant to test.
    assert any(len(row["candidates"]) > 1 for row in expected)
    assert any(len(row["history"]) == min(length, 5) for row in expected)
    assert any(not row["history"] for row in expected)


def test_requests_named_by_the_log(tmp_path):
    data = log()
    # One device a user, so that a request's impressions agree on it.
    data["device"] = [f"d{user}" for user in data["user_id"]]
    names = zip(data["user_id"], data["tab"], data["time_ms"] // 20_000, strict=True)
    data["request"] = ["-".join(map(str, name)) for name in names]
    options = config(request="request")
    group(save(tmp_path / "log.parquet", data), tmp_path / "out", options, threads=1)
    assert rows_of(tmp_path / "out") == slow_group(data, options)
    assert set(read(tmp_path / "out")["request_id"].to_pylist()) == set(data["request"])


def test_without_history_and_with_a_position(tmp_path):
    data = log(users=2, span=20) | {"rank": np.random.default_rng(1).permutation(400)}
    options = config(history=None, position="rank")
    group(save(tmp_path / "log.parquet", data), tmp_path / "out", options, threads=1)
    assert rows_of(tmp_path / "out") == slow_group(data, options)
    assert "history" not in read(tmp_path / "out").schema.names


def test_types_and_order(tmp_path):
    group(save(tmp_path / "log.parquet", log()), tmp_path / "out", config(), threads=1)
    table = read(tmp_path / "out")
    assert table.schema.names == [
        "request_id", "surface", "time", "user_id", "device", "history", "candidates"
    ]  # fmt: skip
    candidate = table.schema.field("candidates").type.value_type
    assert {field.name: field.type for field in candidate} == {
        "video_id": pa.int64(),
        "duration": pa.float32(),
        "click": pa.int64(),
        "like": pa.int8(),
    }
    assert table.schema.field("time").type == pa.int64()
    assert table["request_id"].to_pylist() == list(range(1, table.num_rows + 1))
    order = list(zip(table["user_id"].to_pylist(), table["time"].to_pylist(), strict=True))
    assert order == sorted(order)


def test_parts_change_nothing_but_the_files(tmp_path, monkeypatch):
    path = save(tmp_path / "log.parquet", log(users=40))
    group(path, tmp_path / "one", config(), threads=1)
    monkeypatch.setattr(recipe, "_parts", lambda *_: 5)
    summary = group(path, tmp_path / "five", config(), threads=1)
    assert summary["files"] == 5
    assert rows_of(tmp_path / "five") == rows_of(tmp_path / "one")
    table = read(tmp_path / "five")
    assert sorted(table["request_id"].to_pylist()) == list(range(1, table.num_rows + 1))
    users = [set(pq.read_table(f)["user_id"].to_pylist()) for f in (tmp_path / "five").iterdir()]
    assert sum(map(len, users)) == len(set.union(*users)) == 40


def test_parts_without_a_user_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_parts", lambda *_: 8)
    path = save(tmp_path / "log.parquet", log(users=2))
    assert group(path, tmp_path / "out", config(), threads=1)["files"] <= 2
    assert len(read(tmp_path / "out")) == len(slow_group(log(users=2), config()))


def test_a_small_memory_limit_splits_the_users(tmp_path):
    path = save(tmp_path / "log.parquet", log(120_000, users=3_000, span=100_000))
    summary = group(path, tmp_path / "out", config(), memory_limit="100MB", threads=1)
    assert summary["files"] > 1
    assert summary["impressions"] == 120_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.parquet", "out"]


def test_summary(tmp_path):
    data = log()
    summary = group(save(tmp_path / "log.parquet", data), tmp_path / "out", config(), threads=1)
    expected = slow_group(data, config())
    per_surface = {
        surface: {
            "requests": sum(row["surface"] == surface for row in expected),
            "candidates": int((data["tab"] == surface).sum()),
        }
        for surface in ("home", "search")
    }
    assert summary == {
        "impressions": 400,
        "users": 6,
        "requests": len(expected),
        "files": 1,
        "time": [int(data["time_ms"].min()), max(row["time"] for row in expected)],
        "surfaces": per_surface,
    }


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_become_milliseconds(tmp_path, unit, zone):
    data = log(50)
    group(save(tmp_path / "log.parquet", data), tmp_path / "ms", config(), threads=1)
    times = pa.array(data["time_ms"]).cast(pa.timestamp("ms", zone)).cast(pa.timestamp(unit, zone))
    save(tmp_path / "log.parquet", data | {"time_ms": times})
    group(tmp_path / "log.parquet", tmp_path / "other", config(), threads=1)
    assert rows_of(tmp_path / "other") == rows_of(tmp_path / "ms")


def test_a_folder_is_one_log(tmp_path):
    data = pa.table(log())
    folder = tmp_path / "log"
    (folder / "date=1").mkdir(parents=True)
    save(folder / "a.parquet", data.slice(0, 150))
    # Columns in another order, and a narrower type: still the same log.
    rest = data.slice(150).select(data.schema.names[::-1])
    at = rest.schema.get_field_index("video_id")
    save(
        folder / "date=1" / "b.parquet",
        rest.set_column(at, "video_id", rest["video_id"].cast(pa.int16())),
    )
    (folder / "_temporary.parquet").write_text("not Parquet")
    group(folder, tmp_path / "out", config(), threads=1)
    assert rows_of(tmp_path / "out") == slow_group(log(), config())


def test_names_that_need_quotes(tmp_path):
    data = log(50)
    data['the "select"'] = data.pop("video_id")
    options = config(candidate_columns=['the "select"'], history=None)
    folder = tmp_path / "it's here"
    folder.mkdir()
    group(save(folder / "log.parquet", data), folder / "out", options, threads=1)
    assert read(folder / "out").schema.field("candidates").type.value_type[0].name == (
        'the "select"'
    )


def test_a_comment_in_the_condition_stays_one(tmp_path):
    changed = config().history.model_copy(update={"where": "is_click = 1 OR FALSE -- clicks"})
    options = config(history=changed.model_dump())
    group(save(tmp_path / "log.parquet", log()), tmp_path / "out", options, threads=1)
    assert rows_of(tmp_path / "out") == slow_group(log(), config())


def test_the_sql_is_one_statement_that_names_every_column():
    sql = group_sql(config(), "impressions")
    assert sql.startswith("WITH") and ";\n" not in sql
    assert all(f'"{column}"' in sql for column in config().columns)


def refused(tmp_path, data, options, message):
    path = save(tmp_path / "log.parquet", data)
    with pytest.raises(UserError, match=message) as error:
        group(path, tmp_path / "out", options, threads=1)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["log.parquet"]  # nothing half-written


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    message = (
        r"log\.parquet: column is_clik \(data\.group\.labels\.click\) is missing; "
        r"did you mean is_click\?"
    )
    refused(tmp_path, log(), config(labels={"click": "is_clik"}), message)


@pytest.mark.parametrize("key", ["user", "time", "surface", "request"])
def test_nulls_in_keys_are_counted(tmp_path, key):
    data = log() | {"request": list(range(400))}
    options = config(request="request")
    column = getattr(options, key)
    values = pa.array(data[column]).to_pylist()
    data[column] = [None, *values[1:-1], None]
    message = rf"column {column} \(data\.group\.{key}\) is null in 2 of 400 rows"
    refused(tmp_path, data, options, message)


def test_an_empty_table(tmp_path):
    refused(tmp_path, pa.table(log()).slice(0, 0), config(), "the table is empty")


def test_wrong_types(tmp_path):
    refused(
        tmp_path,
        log() | {"time_ms": np.random.rand(400)},
        config(),
        r"column time_ms \(data\.group\.time\) is double; it must be an integer",
    )
    refused(
        tmp_path,
        log() | {"liked": ["yes"] * 400},
        config(),
        r"column liked \(data\.group\.labels\.like\) is string; a label is 0, 1 or null",
    )


@pytest.mark.parametrize(
    "where",
    ["clicked = 1", "is_click = ", "sum(is_click) > 1"],
)
def test_a_wrong_condition_is_named(tmp_path, where):
    history = {"where": where, "fields": {"video_id": "video_id"}}
    refused(tmp_path, log(), config(history=history), r"data\.group\.history\.where: ")


def test_impressions_of_a_request_must_agree(tmp_path):
    data = log(4) | {
        "user_id": [1, 1, 2, 2],
        "tab": ["home"] * 4,
        "device": ["a", "a", "a", None],
        "request": ["x", "x", "y", "y"],
    }
    options = config(request="request")
    message = "column device differs .* in 1 requests, e.g. request = y: it belongs in candidate"
    refused(tmp_path, data, options, message)
    data["device"], data["user_id"] = ["a"] * 4, [1, 3, 2, 2]
    message = "column user_id differs .* e.g. request = x: give each its own request"
    refused(tmp_path, data, options, message)
    data["user_id"], data["tab"] = [1, 1, 2, 2], ["home", "home", "home", "search"]
    message = "column tab differs .* e.g. request = y: give each its own request, or leave"
    refused(tmp_path, data, options, message)


def test_without_request_the_first_impression_decides(tmp_path):
    data = log(3) | {
        "user_id": [1, 1, 1],
        "tab": ["home"] * 3,
        "time_ms": [3_000, 1_000, 2_000],
        "device": ["late", None, "middle"],
    }
    group(save(tmp_path / "log.parquet", data), tmp_path / "out", config(), threads=1)
    (row,) = rows_of(tmp_path / "out")
    assert (row["time"], row["device"], len(row["candidates"])) == (1_000, None, 3)


def test_the_gap_is_counted_from_the_impression_before(tmp_path):
    data = log(4) | {
        "user_id": [1] * 4,
        "tab": ["home"] * 4,
        "time_ms": [0, 5_000, 10_000, 15_001],
    }
    group(save(tmp_path / "log.parquet", data), tmp_path / "out", config(), threads=1)
    assert [row["time"] for row in rows_of(tmp_path / "out")] == [0, 15_001]


def test_an_event_at_the_time_of_the_request_is_not_history(tmp_path):
    data = log(3) | {
        "user_id": [1] * 3,
        "tab": ["home", "home", "search"],
        "time_ms": [0, 10_000, 10_000],
        "is_click": [1, 1, 1],
        "video_id": [7, 8, 9],
    }
    group(save(tmp_path / "log.parquet", data), tmp_path / "out", config(), threads=1)
    first, home, search = rows_of(tmp_path / "out")
    assert first["history"] == []
    before = [{"video_id": 7, "action": "home", "age": 10_000}]
    assert home["history"] == search["history"] == before


def test_truncated_and_damaged_files_are_named(tmp_path):
    path = save(tmp_path / "log.parquet", log(5_000))
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"log\.parquet: not readable as Parquet"):
        group(path, tmp_path / "out", config())
    path.write_bytes(content[:4] + b"\xff" * 2_000 + content[2_004:])
    with pytest.raises(UserError, match=r"log\.parquet: not readable"):
        group(path, tmp_path / "out", config())
    assert [p.name for p in tmp_path.iterdir()] == ["log.parquet"]


def test_paths_and_limits(tmp_path):
    path = save(tmp_path / "log.parquet", log())
    with pytest.raises(UserError, match="gone: no such file or folder"):
        group(tmp_path / "gone", tmp_path / "out", config())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no \.parquet file"):
        group(tmp_path / "empty", tmp_path / "out", config())
    with pytest.raises(UserError, match="empty: exists"):
        group(path, tmp_path / "empty", config())
    with pytest.raises(UserError, match="memory limit lots: write it like 4GB"):
        group(path, tmp_path / "out", config(), memory_limit="lots")
    with pytest.raises(UserError, match="does not fit in the memory limit"):
        group(path, tmp_path / "out", config(), memory_limit="1MB")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate_columns": []}, "candidate_columns: is empty"),
        ({"labels": {"video_id": "is_click"}}, "the name video_id is taken twice"),
        ({"request_columns": ["Time"]}, "request_columns: the name time is taken twice"),
        ({"history": {"fields": {"age": "tab"}, "age": True}}, "fields: the name age is taken"),
        ({"history": {"fields": {}}}, "at least 1"),
        ({"users": "user_id"}, "Extra inputs"),
        ({"gap": -1}, "greater than or equal to 0"),
    ],
)
def test_a_wrong_configuration_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_the_user_may_be_listed_among_the_request_columns(tmp_path):
    options = config(request_columns=["user_id", "device"])
    group(save(tmp_path / "log.parquet", log()), tmp_path / "out", options, threads=1)
    assert rows_of(tmp_path / "out") == slow_group(log(), config())

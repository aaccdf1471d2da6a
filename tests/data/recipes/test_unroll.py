"""Histories as requests to pretrain on."""

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.config import Config, dump_config, load_config
from recsys.config.load import parse_config
from recsys.data.check import check
from recsys.data.recipes.unroll import labels_of, unroll
from recsys.errors import UserError

LABELS = {"long_view": "(action & 2) > 0", "like": "case when action < 8 then action >= 4 end"}


def events(*actions: int) -> list[dict[str, int]]:
    return [{"video_id": 10 * i, "tag": i, "action": a} for i, a in enumerate(actions)]


def write(root: Path, histories: dict[int, list[list[dict[str, int]]]]) -> Config:
    """A train split with a request for each of a user's histories, in the order of time."""
    rows = [
        {
            "request_id": f"{user}-{time}",
            "surface": "feed",
            "time": time,
            "user_id": user,
            "history": history,
            "candidates": [{"video_id": 1, "tag": [1, 2], "age": 1.0, "click": 0}],
        }
        for user, all_of_them in histories.items()
        for time, history in reversed(list(enumerate(all_of_them)))
    ]
    event = pa.struct([("video_id", pa.int64()), ("tag", pa.int64()), ("action", pa.int64())])
    candidate = pa.struct(
        [
            ("video_id", pa.int64()),
            ("tag", pa.list_(pa.int64())),
            ("age", pa.float32()),
            ("click", pa.int8()),
        ]
    )
    schema = pa.schema(
        [
            ("request_id", pa.string()),
            ("surface", pa.string()),
            ("time", pa.int64()),
            ("user_id", pa.int64()),
            ("history", pa.list_(event)),
            ("candidates", pa.list_(candidate)),
        ]
    )
    (root / "train").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "train" / "part.parquet")
    ids = {"video_id": {"id": "video"}, "tag": {"id": "tag"}}
    return parse_config(
        {
            "name": "log",
            "data": {"root": str(root)},
            "tables": {
                "user": {"rows": 1000, "dim": 4},
                "video": {"rows": 1000, "dim": 4},
                "tag": {"rows": 100, "dim": 4},
                "action": {"rows": 16, "dim": 4},
            },
            "features": {
                "request": {"user_id": {"id": "user"}},
                "history": {"length": 50, "fields": {**ids, "action": {"id": "action"}}},
                "candidate": {
                    "video_id": {"id": "video"},
                    "tag": {"id": "tag", "pooling": "mean"},
                    "age": {"number": "none"},
                },
            },
            "surfaces": {"feed": {"tasks": ["click"], "tower": {"stem": [8]}}},
            "evaluation": {"group": "user_id"},
        },
        "test",
    )


def rows_of(out: Path) -> list[dict]:
    tables = [pq.read_table(out / split) for split in ("train", "valid")]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["request_id"])


def test_each_event_is_a_candidate_of_those_before_its_block(tmp_path: Path) -> None:
    # A later request repeats the history and has the labels of train in it: it is passed over.
    first = events(16, 18, 20, 2, 8)
    many = {user: [events(16, 18)] for user in range(2, 60)}
    config = write(tmp_path / "log", {1: [first, [*first, *events(6)]], **many})
    summary = unroll(config, tmp_path / "out", LABELS, together=2, held_out=0.3)
    rows = [row for row in rows_of(tmp_path / "out") if row["user_id"] == 1]
    assert [row["request_id"] for row in rows] == ["1-0", "1-1", "1-2"]
    assert [row["history"] for row in rows] == [first[:0], first[:2], first[:4]]
    shown = [[c["video_id"] for c in row["candidates"]] for row in rows]
    assert shown == [[0, 10], [20, 30], [40]]
    assert rows[0]["candidates"][1]["tag"] == [1]
    found = [(c["long_view"], c["like"]) for row in rows for c in row["candidates"]]
    assert found == [(0, None), (1, None), (0, None), (1, 0), (0, None)]
    assert {row["surface"] for row in rows} == {"history"}
    counts = summary["splits"]
    assert sum(counts[split]["candidates"] for split in counts) == 5 + 2 * 58
    assert sum(counts[split]["positives"]["long_view"] for split in counts) == 2 + 58
    # A user is in one split alone.
    users = [set(pq.read_table(tmp_path / "out" / s)["user_id"].to_pylist()) for s in counts]
    assert users[0].isdisjoint(users[1])
    assert len(users[0] | users[1]) == 59


def test_its_configuration_reads_it(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {user: [events(16, 18)] for user in range(60)})
    unroll(config, tmp_path / "out", LABELS, held_out=0.3)
    found = load_config(tmp_path / "out" / "config.yaml")
    assert check(found)["faults"] == []
    assert set(found.features.candidate) == {"video_id", "tag"}
    assert set(found.tables) == {"video", "tag", "action"}
    assert found.tasks == ("long_view", "like")
    assert found.model.sequence == config.model.sequence


def test_its_configuration_reads_another_axis(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {user: [events(16, 18)] for user in range(60)})
    document = config.model_dump(mode="json", by_alias=True)
    document["data"]["axis"] = "tenant"
    unroll(parse_config(document, "test"), tmp_path / "out", LABELS, held_out=0.3)
    assert check(load_config(tmp_path / "out" / "config.yaml"))["faults"] == []


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {user: [events(16, 18)] for user in range(60)})
    out = tmp_path / "out"

    def message(config: Config, labels: dict[str, str], **options: float) -> str:
        with pytest.raises(UserError) as error:
            unroll(config, out, labels, **options)  # type: ignore[arg-type]
        assert not out.exists()
        return str(error.value)

    assert "an event has the fields video_id, tag, action" in message(config, {"x": "actoin > 1"})
    assert message(config, {}).startswith("--label: missing")
    assert message(config, LABELS, held_out=1.5) == "--held-out 1.5: is a share between 0 and 1"
    document = config.model_dump(mode="json", by_alias=True)
    document["evaluation"]["group"] = None
    assert message(parse_config(document, "t"), LABELS).startswith("evaluation.group: missing")
    document = config.model_dump(mode="json", by_alias=True)
    document["model"]["sequence"] = None
    assert "nothing to pretrain" in message(parse_config(document, "t"), LABELS)
    document = config.model_dump(mode="json", by_alias=True)
    document["features"]["history"]["fields"] = {"action": {"id": "action"}}
    assert "shares no id feature" in message(parse_config(document, "t"), LABELS)
    document = config.model_dump(mode="json", by_alias=True)
    document["data"]["root"] = "memory://log"
    (memory := fsspec.filesystem("memory")).put(str(tmp_path / "log"), "/log", recursive=True)
    assert "is not on this machine" in message(parse_config(document, "t"), LABELS)
    memory.rm("/log", recursive=True)
    out.mkdir()
    with pytest.raises(UserError, match="exists; remove it"):
        unroll(config, out, LABELS)


def test_a_wrong_memory_limit(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {user: [events(16, 18)] for user in range(60)})
    with pytest.raises(UserError, match="memory limit much: write it like 4GB"):
        unroll(config, tmp_path / "out", LABELS, memory_limit="much")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["long_view", "=1", "long_view=", "a b=1"])
def test_labels_are_task_and_sql(option: str) -> None:
    with pytest.raises(UserError, match=f"--label {option}: write it as TASK=SQL"):
        labels_of([option])


def test_a_user_who_begins_without_history_is_passed_over(tmp_path: Path) -> None:
    # The later history of user 0 holds what the split's own requests showed, with their labels.
    old = {user: [events(16, 18)] for user in range(1, 60)}
    config = write(tmp_path / "log", {0: [[], events(2, 6)], **old})
    unroll(config, tmp_path / "out", LABELS, held_out=0.3)
    assert {row["user_id"] for row in rows_of(tmp_path / "out")} == set(range(1, 60))


def test_a_log_that_begins_without_history_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {user: [[], events(2, 6)] for user in range(60)})
    with pytest.raises(UserError, match="history: empty at every user's first request, and later"):
        unroll(config, tmp_path / "out", LABELS)
    assert not (tmp_path / "out").exists()


def test_no_user_in_a_split(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {1: [events(16, 18)]})
    with pytest.raises(UserError, match=r"history: no events for .*; give another --held-out"):
        unroll(config, tmp_path / "out", LABELS)


def test_the_verb(tmp_path: Path) -> None:
    config = write(tmp_path / "log", {user: [events(16, 18)] for user in range(60)})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    arguments = ["data", "unroll", str(tmp_path / "config.yaml"), str(tmp_path / "out")]
    options = ["--label", "clicked=true", "--held-out", "0.3", "--json"]
    found = CliRunner().invoke(app, [*arguments, *options])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["splits"]["train"]["candidates"] > 0

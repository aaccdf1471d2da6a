"""The predictions table: written whole or not at all, and what is evaluated from it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import UserError
from recsys.evaluation import parquet
from recsys.evaluation.metrics import METRICS, task_metrics
from recsys.evaluation.predictions import PredictionsWriter, evaluate_predictions


def rows(count=60, seed=0, first_request=0):
    """Requests of 3 candidates; surface `search` has the task click only."""
    generator = np.random.default_rng(seed)
    request = first_request + np.arange(count) // 3
    surface = np.where(request % 2 == 0, "home", "search")
    click = generator.random(count).astype(np.float32)
    label = (generator.random(count) < click).astype(np.float64)
    label[generator.random(count) < 0.2] = np.nan
    return {
        "request_id": request,
        "candidate": np.arange(count) % 3,
        "surface": surface,
        "time": 1_000 * request,
        "group": request % 5,
        "click": click,
        "logit.click": np.log(click / (1 - click)),
        "label.click": label,
        "like": np.ma.array(click[::-1].copy(), mask=surface == "search"),
        "label.like": 1 - label,
        "video_id": [f"v{i}" for i in range(count)],
    }


def write(folder, *batches, **options):
    with PredictionsWriter(folder, **options) as writer:
        for batch in batches:
            writer.append(batch)
    return folder


def change(folder, column, values):
    """Rewrites one column of the table's only file; None removes it."""
    file = folder / "part-00000.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index(column)
    table = table.remove_column(at)
    if values is not None:
        table = table.add_column(at, column, values)
    pq.write_table(table, file)


def test_columns_are_stored_as_documented(tmp_path):
    table = pq.read_table(write(tmp_path / "test", rows()))
    assert table.schema.field("candidate").type == pa.int32()
    assert table.schema.field("label.click").type == pa.float32()
    assert table.schema.field("click").type == pa.float32()
    assert table["label.click"].null_count == np.isnan(rows()["label.click"]).sum() > 0
    assert table["like"].null_count == 30
    assert table["video_id"].to_pylist() == rows()["video_id"]


def test_batches_of_any_size_are_buffered_into_row_groups_and_files(tmp_path):
    batches = [rows(count, seed=count, first_request=100 * count) for count in (3, 0, 75, 30)]
    folder = write(tmp_path / "test", *batches, rows_a_row_group=20, rows_a_file=40)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"part-{i:05d}.parquet" for i in range(3)]
    sizes = [
        [
            pq.ParquetFile(f).metadata.row_group(i).num_rows
            for i in range(pq.ParquetFile(f).num_row_groups)
        ]
        for f in files
    ]
    assert sizes == [[20, 20], [20, 20], [20, 8]]
    found = np.concatenate([pq.read_table(f)["request_id"].to_numpy() for f in files])
    assert np.array_equal(found, np.concatenate([b["request_id"] for b in batches]))


def test_the_writer_holds_at_most_one_row_group(tmp_path):
    with PredictionsWriter(tmp_path / "test", rows_a_row_group=50) as writer:
        for _ in range(20):
            writer.append(rows(60))
            assert writer._buffered < 50
    assert writer.rows == 1200


def test_record_batches_are_rows_too(tmp_path):
    table = pq.read_table(write(tmp_path / "a", rows()))
    dictionary = table["surface"].dictionary_encode()
    table = table.set_column(table.schema.get_field_index("surface"), "surface", dictionary)
    folder = write(tmp_path / "b", *table.to_batches(max_chunksize=7))
    assert evaluate_predictions(folder) == evaluate_predictions(tmp_path / "a")


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), PredictionsWriter(tmp_path / "test") as writer:
        writer.append(rows())
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nothing_predicted_is_an_error(tmp_path):
    with pytest.raises(UserError, match="test: no row was predicted"):
        write(tmp_path / "test", rows(0))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_table_is_replaced_only_on_request(tmp_path):
    write(tmp_path / "test", rows(60))
    with pytest.raises(UserError, match="test: exists"):
        write(tmp_path / "test", rows(30))
    with pytest.raises(RuntimeError), PredictionsWriter(tmp_path / "test", replace=True):
        raise RuntimeError
    assert pq.read_table(tmp_path / "test").num_rows == 60
    write(tmp_path / "test", rows(30), replace=True)
    assert pq.read_table(tmp_path / "test").num_rows == 30
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_a_table_that_stepped_aside_for_a_killed_writer_is_put_back(tmp_path):
    older = tmp_path / ".test.123.old"
    write(older, rows(60))
    with pytest.raises(RuntimeError), PredictionsWriter(tmp_path / "test", replace=True):
        raise RuntimeError
    assert pq.read_table(tmp_path / "test").num_rows == 60
    write(older, rows(90))
    write(tmp_path / "test", rows(30), replace=True)
    assert pq.read_table(tmp_path / "test").num_rows == 30
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_a_place_that_is_none_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/test: .*file cannot be made \(.*choose another place"
    ):
        write(tmp_path / "file" / "test", rows())


def test_appends_must_be_alike(tmp_path):
    without = {name: values for name, values in rows().items() if name != "surface"}
    with pytest.raises(ValueError, match="need the column surface"):
        write(tmp_path / "test", without)
    other = {name: values for name, values in rows().items() if name != "video_id"}
    with pytest.raises(ValueError, match="differ from the first"):
        write(tmp_path / "test", rows(), other)
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_the_contract(tmp_path):
    folder = write(tmp_path / "test", rows(300), rows_a_row_group=70, rows_a_file=100)
    report = evaluate_predictions(folder)
    assert list(report) == ["split", "surfaces", "all"]
    assert report["split"] is None
    assert list(report["surfaces"]) == ["home", "search"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    data = rows(300)
    for surface, tasks in (("home", ["click", "like"]), ("search", ["click"])):
        found = report["surfaces"][surface]
        inside = data["surface"] == surface
        assert (found["requests"], found["candidates"]) == (50, 150)
        # search has no prediction of like, so like is not among its tasks.
        assert list(found["tasks"]) == tasks
        for task in tasks:
            expected = task_metrics(
                data[task][inside], data[f"label.{task}"][inside], data["group"][inside]
            )
            assert list(found["tasks"][task]) == ["rows", "positives", *METRICS]
            assert found["tasks"][task] == pytest.approx(expected)
    expected = task_metrics(data["click"], data["label.click"], data["group"])
    assert report["all"]["tasks"]["click"] == pytest.approx(expected)
    # Over all surfaces, like counts the rows that were predicted.
    home = report["surfaces"]["home"]["tasks"]["like"]
    assert report["all"]["tasks"]["like"] == home


def test_chosen_surfaces_and_tasks(tmp_path):
    folder = write(tmp_path / "test", rows())
    report = evaluate_predictions(folder, tasks=["click"], surfaces=["search", "feed"])
    full = evaluate_predictions(folder)
    assert report["surfaces"]["search"] == full["surfaces"]["search"]
    assert report["all"]["tasks"]["click"] == full["surfaces"]["search"]["tasks"]["click"]
    nothing = {"rows": 0, "positives": 0} | dict.fromkeys(METRICS)
    assert report["surfaces"]["feed"] == {
        "requests": 0, "candidates": 0, "tasks": {"click": nothing}
    }  # fmt: skip


def test_a_surface_without_known_labels_has_rows_0_and_no_values(tmp_path):
    data = rows()
    data["label.click"] = np.where(data["surface"] == "search", np.nan, data["label.click"])
    report = evaluate_predictions(write(tmp_path / "test", data))
    found = report["surfaces"]["search"]["tasks"]["click"]
    assert found == {"rows": 0, "positives": 0} | dict.fromkeys(METRICS)


def test_a_request_over_two_files_counts_once(tmp_path):
    folder = write(tmp_path / "test", rows(60), rows_a_row_group=5, rows_a_file=5)
    report = evaluate_predictions(folder)
    assert [found["requests"] for found in report["surfaces"].values()] == [10, 10]


@pytest.mark.parametrize("most", [3, 200])
def test_a_row_that_is_there_twice_is_named(tmp_path, most):
    """Also among more candidates than there are bits."""
    data = {name: np.ma.array(values) for name, values in rows(600).items()}
    data["request_id"], data["candidate"] = np.arange(600) // most, np.arange(600) % most
    data["surface"] = np.where(data["request_id"] % 2 == 0, "home", "search")
    evaluate_predictions(write(tmp_path / "once", data))
    twice = {name: np.ma.concatenate([values, values[[2, 1]]]) for name, values in data.items()}
    twice["video_id"] = np.array(twice["video_id"])
    folder = write(tmp_path / "twice", twice, rows_a_row_group=50, rows_a_file=100)
    message = "twice: request_id 0, candidate 1 of surface home: is in 2 rows; write it once, or"
    with pytest.raises(UserError, match=message):
        evaluate_predictions(folder)


def test_without_candidates_rows_count_as_they_are(tmp_path):
    folder = write(tmp_path / "test", rows(), rows())
    change(folder, "candidate", None)
    once = evaluate_predictions(write(tmp_path / "once", rows()))["surfaces"]["home"]
    found = evaluate_predictions(folder)["surfaces"]["home"]
    assert found["candidates"] == 2 * once["candidates"]
    assert found["requests"] == once["requests"]


def test_only_the_needed_columns_are_read(tmp_path):
    folder = write(tmp_path / "test", rows(6000))
    expected = evaluate_predictions(folder)
    damage(folder, "video_id")
    assert evaluate_predictions(folder) == expected


@pytest.mark.parametrize("column", ["surface", "request_id", "group", "click"])
def test_a_missing_column_is_named(tmp_path, column):
    folder = write(tmp_path / "test", rows())
    change(folder, column, None)
    with pytest.raises(UserError, match=rf"part-00000\.parquet: column {column} is missing"):
        evaluate_predictions(folder)


def test_an_unknown_task_is_named_with_the_nearest(tmp_path):
    folder = write(tmp_path / "test", rows())
    with pytest.raises(UserError, match="column clic is missing; did you mean click"):
        evaluate_predictions(folder, tasks=["clic"])


def test_a_table_without_labels_cannot_be_evaluated(tmp_path):
    data = {name: v for name, v in rows().items() if not name.startswith("label.")}
    with pytest.raises(UserError, match=r"no column label\.TASK"):
        evaluate_predictions(write(tmp_path / "test", data))


def test_nan_is_named_by_file_column_and_row(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_A_BATCH", 10)  # rows are counted over batches
    data = rows()
    data["click"][47] = np.nan
    folder = write(tmp_path / "test", data, rows_a_row_group=10, rows_a_file=30)
    message = r"part-00001\.parquet: column click, row 17: the probability is nan"
    with pytest.raises(UserError, match=message):
        evaluate_predictions(folder)


def test_wrong_labels_and_types_are_named(tmp_path):
    folder = write(tmp_path / "test", rows())
    change(folder, "label.click", pa.array([2.0] * 60))
    with pytest.raises(UserError, match=r"column label\.click, row 0: the label is 2\.0"):
        evaluate_predictions(folder)
    change(folder, "label.click", pa.array(["yes"] * 60))
    with pytest.raises(UserError, match=r"column label\.click: is string, not a label"):
        evaluate_predictions(folder)
    change(folder, "click", pa.array([1] * 60))
    with pytest.raises(UserError, match="column click: is int64, not a probability"):
        evaluate_predictions(folder)
    folder = write(tmp_path / "other", rows())
    change(folder, "surface", pa.array([*["home"] * 59, None]))
    with pytest.raises(UserError, match="column surface, row 59: null"):
        evaluate_predictions(folder)


def test_files_of_different_types_are_named(tmp_path):
    folder = write(tmp_path / "test", rows())
    table = pq.read_table(folder)
    at = table.schema.get_field_index("group")
    table = table.set_column(at, "group", table["group"].cast(pa.string()))
    pq.write_table(table, folder / "part-00001.parquet")
    with pytest.raises(UserError, match=r"part-00001\.parquet: column group: is string, but int64"):
        evaluate_predictions(folder)


def test_a_column_that_is_there_twice_is_named(tmp_path):
    file = write(tmp_path / "test", rows()) / "part-00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("click", table["click"]), file)
    with pytest.raises(UserError, match=r"part-00000\.parquet: column click: is there twice"):
        evaluate_predictions(file)


def test_an_empty_table(tmp_path):
    folder = write(tmp_path / "test", rows())
    file = folder / "part-00000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(UserError, match="predictions table is empty"):
        evaluate_predictions(folder)


def test_a_missing_table_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="gone: no such predictions table"):
        evaluate_predictions(tmp_path / "gone")
    with pytest.raises(UserError, match=r"has no \.parquet file"):
        evaluate_predictions(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    folder = write(
        tmp_path / "test", rows(), rows(first_request=100), rows_a_file=60, rows_a_row_group=60
    )
    file = folder / "part-00001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"part-00001\.parquet: not readable as Parquet"):
        evaluate_predictions(folder)


def damage(folder, column):
    """Overwrites a part of a column's data in the table's only file."""
    file = folder / "part-00000.parquet"
    content = bytearray(file.read_bytes())
    group = pq.ParquetFile(file).metadata.row_group(0)
    at = next(i for i in range(group.num_columns) if group.column(i).path_in_schema == column)
    start = group.column(at).data_page_offset
    content[start : start + 400] = b"\xff" * 400
    file.write_bytes(content)


def test_damaged_data_is_named(tmp_path):
    folder = write(tmp_path / "test", rows(6000))
    damage(folder, "click")
    with pytest.raises(UserError, match=r"part-00000\.parquet: not readable as Parquet"):
        evaluate_predictions(folder)

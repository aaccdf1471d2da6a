"""`recsys predict` with an artefact alone."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from recsys.errors import UserError
from recsys.evaluation.score import predict as predict_with_run
from recsys.export.artefact import Artefact
from recsys.export.predict import predict
from recsys.run_directory import RunDirectory


def read(folder: Path) -> pa.Table:
    return ds.dataset(folder).to_table()


def test_equal_to_the_runs_own_predictions(
    run: RunDirectory, exports: dict[str, Artefact], simulated_log: Path, tmp_path: Path
):
    table = str(simulated_log / "test")
    predict_with_run(run, table, tmp_path / "joint", show=False)
    joint = read(tmp_path / "joint")
    for surface, artefact in exports.items():
        summary = predict(artefact, table, tmp_path / surface, show=False)
        assert summary["version"] == artefact.version
        found = read(tmp_path / surface)
        own = joint.filter(pc.equal(joint["surface"], surface))
        assert summary["rows"] == len(found) == len(own) > 0
        for name in ("request_id", "candidate", "surface", "time", "group"):
            assert found[name] == own[name].cast(found[name].type), name
        for task in artefact.config.tasks:
            assert found[task].type == own[task].type
            difference = found[task].to_numpy() - own[task].to_numpy()
            assert np.abs(difference).max() <= 1e-6
        assert set(found.column_names) - {*artefact.config.tasks} <= set(own.column_names)


def test_with_the_run_deleted(
    run: RunDirectory, exports: dict[str, Artefact], simulated_log: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(exports["home"].path, tmp_path / "alone"))
    summary = predict(Artefact(folder), str(simulated_log / "test"), tmp_path / "out", show=False)
    assert summary["rows"] > 0


def changed(source: Path, target: Path, change: object) -> str:
    """The table with `change` done to it, as one file."""
    target.mkdir()
    table = change(pq.read_table(source))  # type: ignore[operator]
    pq.write_table(table, target / "part-0.parquet")
    return str(target)


def test_unknown_ids_read_the_reserved_row_and_are_counted(
    exports: dict[str, Artefact], simulated_log: Path, tmp_path: Path
):
    def strange(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("user_id")
        ids = np.full(len(table), 10**12)
        ids[::2] = -5
        table = table.set_column(at, "user_id", pa.array(ids))
        at = table.schema.get_field_index("country")
        return table.set_column(at, "country", pa.array(["atlantis"] * len(table)))

    def absent(table: pa.Table) -> pa.Table:
        for name in ("user_id", "country"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.nulls(len(table), table.schema.field(at).type))
        return table

    artefact = exports["home"]
    strange_table = changed(simulated_log / "test", tmp_path / "a", strange)
    found = predict(artefact, strange_table, tmp_path / "p", show=False)
    requests = len(set(read(tmp_path / "p")["request_id"].to_pylist()))
    assert found["unknown_ids"]["user_id"] == {"unknown": requests, "ids": requests}
    assert found["unknown_ids"]["country"] == {"unknown": requests, "ids": requests}
    assert found["unknown_ids"]["candidates.item_id"]["unknown"] == 0
    # The reserved row is that of an absent id.
    table = changed(simulated_log / "test", tmp_path / "b", absent)
    counted = predict(artefact, table, tmp_path / "q", show=False)["unknown_ids"]
    assert counted["user_id"] == {"unknown": 0, "ids": 0}
    p, q = (read(tmp_path / name).drop_columns(["group"]) for name in ("p", "q"))
    assert p.equals(q)


def test_training_stays_strict(run: RunDirectory, simulated_log: Path, tmp_path: Path):
    def strange(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("user_id")
        return table.set_column(at, "user_id", pa.array([10**12] * len(table)))

    table = changed(simulated_log / "test", tmp_path / "a", strange)
    with pytest.raises(UserError, match=r"user_id: .* is beyond the table"):
        predict_with_run(run, table, tmp_path / "p", show=False)


def test_a_column_that_is_missing_is_named(
    exports: dict[str, Artefact], simulated_log: Path, tmp_path: Path
):
    table = changed(simulated_log / "test", tmp_path / "a", lambda t: t.drop_columns(["country"]))
    with pytest.raises(UserError, match="no column country"):
        predict(exports["home"], table, tmp_path / "p", show=False)
    assert not (tmp_path / "p").exists()


def test_a_column_of_another_surface_may_be_missing(
    exports: dict[str, Artefact], simulated_log: Path, tmp_path: Path
):
    table = changed(simulated_log / "test", tmp_path / "a", lambda t: t.drop_columns(["query"]))
    assert predict(exports["home"], table, tmp_path / "p", show=False)["rows"] > 0


def test_a_table_without_rows_of_the_surface(
    exports: dict[str, Artefact], simulated_log: Path, tmp_path: Path
):
    def others(table: pa.Table) -> pa.Table:
        return table.filter(pc.not_equal(table["surface"].cast(pa.string()), "home"))

    table = changed(simulated_log / "test", tmp_path / "a", others)
    with pytest.raises(UserError, match="no row of surface home"):
        predict(exports["home"], table, tmp_path / "p", show=False)

"""What the arguments of a report mean."""

from pathlib import Path

import pytest

from recsys.errors import UserError
from recsys.report import inputs
from recsys.report.inputs import names_of, open_systems


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/x/seed1", "/y/seed1"], ["x/seed1", "y/seed1"]),
        (["/ours.parquet", "/gbdt.parquet"], ["ours", "gbdt"]),
        (["/runs/lr-0.01", "/runs/lr-0.02"], ["lr-0.01", "lr-0.02"]),
    ],
)
def test_names_are_as_short_as_they_can_be(paths, names):
    assert names_of([Path(path) for path in paths]) == names


def test_the_same_path_twice():
    with pytest.raises(UserError, match="/runs/a: given twice"):
        names_of([Path("/runs/a"), Path("/runs/a")])


def test_predictions_of_a_run_are_made_once(trained, tmp_path, monkeypatch):
    import shutil

    path = tmp_path / "run"
    shutil.copytree(trained.path, path)
    made, predict = [], inputs.predict
    monkeypatch.setattr(inputs, "predict", lambda *args: (made.append(args), predict(*args)))
    for split, count in (("valid", 1), ("valid", 1), ("test", 2)):
        [system] = open_systems([path], split)
        system.rows.close()
        assert len(made) == count
        assert system.rows.path == path / "predictions" / split


def test_predictions_older_than_the_checkpoint_are_said_to_be(trained, tmp_path):
    import os
    import shutil

    path = tmp_path / "run"
    shutil.copytree(trained.path, path)
    open_systems([path])[0].rows.close()
    best = path / "checkpoints" / "best.json"
    os.utime(best, (best.stat().st_atime, best.stat().st_mtime + 1_000_000))
    [system] = open_systems([path])
    system.rows.close()
    assert system.notes == [
        "its test predictions are older than its best checkpoint; "
        f"recsys evaluate {path} --split test makes new ones"
    ]


def test_a_run_is_a_table_too_if_asked_for(trained):
    with pytest.raises(UserError, match=r"run: has no \.parquet file"):
        open_systems([trained.path], predictions=True)

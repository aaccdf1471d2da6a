"""Evaluating and predicting from a trained run, whose home surface has a user's own module."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.config import Config, load_config
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.evaluation.predictions import evaluate_predictions
from recsys.evaluation.score import Scorer, evaluate, load_model, predict
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.train import train
from tests.training.conftest import SMALL
from tests.training.runs import newest, tensors_of

OWN = (
    "surfaces.home.tower.modules="
    "[{class: tests.model.own_modules.QueryCross, inputs: [user_id, item_id], scale: 2.0}]"
)
KEEP = "evaluation.keep=[user_id, item_id, time]"


@pytest.fixture(scope="module")
def config(simulated_log: Path) -> Config:
    faster = ["training.dense.lr=0.02", "evaluation.batch_candidates=200"]
    return load_config(simulated_log / "config.yaml", [*SMALL, OWN, KEEP, *faster])


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(config, path)
    return RunDirectory.open(path)


@pytest.fixture(scope="module")
def evaluated(run: RunDirectory) -> dict:
    return evaluate(run, "test", show=False)


@pytest.fixture(scope="module")
def predictions(run: RunDirectory, evaluated: dict) -> pa.Table:
    return pq.read_table(run.predictions / "test")


@pytest.fixture(scope="module")
def requests(simulated_log: Path) -> list[dict]:
    return pq.read_table(simulated_log / "test").to_pylist()


def test_a_users_module_is_in_plan_checkpoint_and_model(run: RunDirectory, config: Config) -> None:
    name = "towers.home.tower.fusions.0.module.weight"
    saved = tensors_of(newest(run.path))
    model = load_model(run, config)
    assert torch.equal(saved[f"model.{name}"], model.state_dict()[name])
    assert not torch.equal(saved[f"model.{name}"], torch.ones(16))  # it began with ones
    assert f"dense.{name}.exp_avg" in saved
    assert name in model.for_surface("home").state_dict()
    assert name not in model.for_surface("search").state_dict()
    assert model.towers["home"].tower.fusions[0].module.scale == 2.0


def test_the_predictions_table_has_a_row_a_candidate(
    run: RunDirectory, predictions: pa.Table, requests: list[dict], config: Config
) -> None:
    rows = {
        (request["request_id"], position): (request, candidate)
        for request in requests
        for position, candidate in enumerate(request["candidates"])
    }
    found = predictions.to_pylist()
    assert len(found) == len(rows)
    calibrators = load_model(run, config).requires_grad_(False).calibrators
    for row in found:
        request, candidate = rows.pop((row["request_id"], row["candidate"]))
        assert row["surface"] == request["surface"]
        assert row["time"] == request["time"]
        assert row["group"] == row["user_id"] == request["user_id"]
        assert row["item_id"] == candidate["item_id"]
        for task in config.tasks:
            has = task in config.surfaces[request["surface"]].tasks
            assert (row[task] is not None) == has
            assert (row[f"logit.{task}"] is not None) == has
            assert row[f"label.{task}"] == (candidate[task] if has else None)
            if has:
                own = calibrators[row["surface"]]
                t = own.tasks.index(task)
                slope, bias = float(own.log_slope[t].exp()), float(own.bias[t])
                expected = 1 / (1 + np.exp(-(slope * row[f"logit.{task}"] + bias)))
                assert row[task] == pytest.approx(expected, rel=1e-6)
                assert (slope, bias) != (1.0, 0.0)
    assert not rows


def test_logits_are_those_of_the_best_checkpoint(
    run: RunDirectory, config: Config, predictions: pa.Table
) -> None:
    assert checkpoint.best(run.checkpoints) is not None
    model = load_model(run, config)
    statistics = Statistics.load(run.statistics)
    found = {(row["request_id"], row["candidate"]): row for row in predictions.to_pylist()}
    with (
        torch.no_grad(),
        Reader(config, "test", statistics, batch_candidates=33, predictions=True) as reader,
    ):
        for batch in reader:
            assert batch.columns is not None
            logits = model(batch).raw
            for i, key in enumerate(batch.columns.select(["request_id", "candidate"]).to_pylist()):
                row = found[(key["request_id"], key["candidate"])]
                s = config.surfaces[row["surface"]]
                for task in s.tasks:
                    expected = float(logits[i, config.tasks.index(task)])
                    assert row[f"logit.{task}"] == pytest.approx(expected, abs=1e-5)


def test_metrics_are_those_of_the_predictions(
    run: RunDirectory, evaluated: dict, config: Config, requests: list[dict]
) -> None:
    assert evaluated["split"] == "test"
    again = evaluate_predictions(
        run.predictions / "test", surfaces=list(config.surfaces), top=config.evaluation.hit_at
    )
    assert again["surfaces"].keys() == evaluated["surfaces"].keys()
    assert again["all"]["tasks"]["click"] == evaluated["all"]["tasks"]["click"]
    for surface, found in evaluated["surfaces"].items():
        mine = [r for r in requests if r["surface"] == surface]
        assert found["requests"] == len(mine)
        assert found["candidates"] == sum(len(r["candidates"]) for r in mine)
        assert set(found["tasks"]) == set(config.surfaces[surface].tasks)


@pytest.mark.parametrize("surface", ["home", "search", "related"])
def test_a_surface_alone_has_the_joint_models_rows(
    run: RunDirectory, predictions: pa.Table, evaluated: dict, surface: str, config: Config
) -> None:
    alone = evaluate(run, "test", surface, show=False)
    assert set(alone["surfaces"]) == {surface}
    rows = pq.read_table(run.predictions / f"test-{surface}").to_pylist()
    joint = [row for row in predictions.to_pylist() if row["surface"] == surface]
    assert len(rows) == len(joint) > 0
    key = lambda row: (row["request_id"], row["candidate"])  # noqa: E731
    for one, other in zip(sorted(rows, key=key), sorted(joint, key=key), strict=True):
        assert key(one) == key(other)
        for task in config.surfaces[surface].tasks:
            assert one[f"logit.{task}"] == pytest.approx(other[f"logit.{task}"], abs=1e-6)
            assert one[f"label.{task}"] == other[f"label.{task}"]
    auc = evaluated["surfaces"][surface]["tasks"]["click"]["auc"]
    assert alone["surfaces"][surface]["tasks"]["click"]["auc"] == pytest.approx(auc, abs=1e-6)


def test_a_table_without_labels_is_predicted(
    run: RunDirectory, config: Config, simulated_log: Path, predictions: pa.Table, tmp_path: Path
) -> None:
    table = pq.read_table(simulated_log / "test")
    rows = table.to_pylist()
    drop = {*config.tasks, *(f"truth.{task}" for task in config.tasks)}
    for row in rows:
        row["candidates"] = [
            {k: v for k, v in candidate.items() if k not in drop} for candidate in row["candidates"]
        ]
    # The struct loses its labels; all other types stay.
    struct = table.schema.field("candidates").type.value_type
    fields = [field for field in struct if field.name not in drop]
    schema = table.schema.set(
        table.schema.get_field_index("candidates"),
        pa.field("candidates", pa.list_(pa.struct(fields))),
    )
    source = tmp_path / "unlabelled.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), source)
    out = tmp_path / "out"
    assert predict(run, str(source), out, show=False) == {
        "out": str(out),
        "rows": len(predictions),
        "unseen": {"requests": 0, "surfaces": 0},
    }
    found = pq.read_table(out)
    assert set(found.column_names) == {
        "request_id", "candidate", "surface", "time", "group", *config.tasks
    }  # fmt: skip
    joint = {(r["request_id"], r["candidate"]): r for r in predictions.to_pylist()}
    for row in found.to_pylist():
        same = joint[(row["request_id"], row["candidate"])]
        for task in config.tasks:
            assert row[task] == pytest.approx(same[task], abs=1e-6)
    with pytest.raises(UserError, match="out: exists; remove it or choose another folder"):
        predict(run, str(source), out, show=False)


def test_evaluating_again_replaces_the_table(run: RunDirectory, evaluated: dict) -> None:
    assert evaluate(run, "test", show=False) == evaluated


def test_what_does_not_exist(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--split tset: is train, valid or test"):
        evaluate(run, "tset", show=False)
    with pytest.raises(UserError, match=r"--segment surface .*: is always reported"):
        evaluate(run, "test", show=False, segments=["surface"])
    with pytest.raises(UserError) as caught:
        Scorer(run, "serch")
    assert str(caught.value) == (f"--surface serch: not in {run.config_file}; did you mean search?")
    with pytest.raises(UserError, match=r"not a run directory \(no config.yaml\)"):
        RunDirectory.open(tmp_path)


def test_a_run_without_a_whole_checkpoint(run: RunDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    for path in (copy / "checkpoints").glob("step-*"):
        (path / "complete.json").unlink()
    with pytest.raises(UserError) as caught:
        evaluate(RunDirectory.open(copy), show=False)
    assert str(caught.value) == (
        f"{copy / 'checkpoints'}: no complete checkpoint; finish or resume the training"
    )


def test_a_checkpoint_of_another_model(run: RunDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    text = (copy / "config.yaml").read_text()
    assert "width: 16" in text
    (copy / "config.yaml").write_text(text.replace("width: 16", "width: 24"))
    with pytest.raises(UserError, match="does not fit this configuration: Size mismatch"):
        evaluate(RunDirectory.open(copy), show=False)


def test_users_are_told_apart_by_what_training_saw(
    predictions: pa.Table, requests: list[dict], simulated_log: Path
) -> None:
    train_users = set(pq.read_table(simulated_log / "train", columns=["user_id"])[0].to_pylist())
    rows = predictions.to_pylist()
    assert {row["known_group"] for row in rows} == {row["group"] in train_users for row in rows}
    lengths = {r["request_id"]: len(r["history"]) for r in requests}
    assert all(row["history_length"] == min(lengths[row["request_id"]], 50) for row in rows)
    assert len({row["history_length"] for row in rows}) > 1

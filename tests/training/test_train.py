"""A whole run on a small simulated log, in one process."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from recsys.config import Config, dump_config, load_config
from recsys.data.splits import open_split
from recsys.errors import RunError, UserError
from recsys.evaluation.score import load_model
from recsys.run_directory import RunDirectory
from recsys.training import train as training
from recsys.training.train import train
from tests.training.conftest import SMALL
from tests.training.runs import lines_of, newest, state_of


@pytest.fixture(scope="module")
def config(logs: Path) -> Config:
    return load_config(
        logs / "config.yaml", [*SMALL, "training.epochs=2", "training.dense.decay=linear"]
    )


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "full"
    summary = train(config, path)
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def candidates_of(logs: Path, split: str) -> int:
    table = pq.read_table(logs / split, columns=["candidates"])
    return sum(len(row) for row in table["candidates"].to_pylist())


def test_a_run_leaves_what_its_directory_promises(run: Path, config: Config) -> None:
    names = {path.name for path in run.iterdir()} - {"summary.json"}
    assert names == {
        ".job.json",
        "config.yaml",
        "plan.json",
        "statistics",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
    }
    assert (run / "config.yaml").read_text() == dump_config(config)
    assert load_config(run / "config.yaml") == config
    assert set(json.loads((run / "plan.json").read_text())["tables"]) == set(config.tables)
    assert list((run / "tensorboard").iterdir())
    checkpoint = newest(run)
    assert {"complete.json", "state.json", ".metadata"} < {p.name for p in checkpoint.iterdir()}
    # Nothing half-written, and no pickle but DCP's own.
    assert not [p for p in run.rglob("*") if p.name.endswith((".tmp", ".old", ".pt", ".pkl"))]


def test_every_candidate_is_trained_on_once_an_epoch(run: Path, logs: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    total = candidates_of(logs, "train")
    assert summary["candidates"] == 2 * total
    assert summary["epochs"] == 2
    lines = lines_of(run, "train")
    assert [line["step"] for line in lines] == list(range(1, summary["steps"] + 1))
    assert lines[-1]["candidates"] == 2 * total
    assert [line["epoch"] for line in lines] == sorted(line["epoch"] for line in lines)
    steps_an_epoch = sum(line["epoch"] == 0 for line in lines)
    assert next(x for x in lines if x["step"] == steps_an_epoch)["candidates"] == total


def test_the_log_has_each_cell_and_the_schedule(run: Path, config: Config) -> None:
    lines = lines_of(run, "train")
    for line in lines:
        assert 0 < line["loss"] < 10
        for surface, cells in line["cells"].items():
            assert set(cells) <= set(config.surfaces[surface].tasks)
    seen = {(s, t) for line in lines for s, cells in line["cells"].items() for t in cells}
    assert seen == {(s, t) for s, each in config.surfaces.items() for t in each.tasks}
    # The loss of a step is the weighted sum of its cells.
    for line in lines:
        weighted = sum(
            config.surfaces[s].weight * config.surfaces[s].tasks[t] * value
            for s, cells in line["cells"].items()
            for t, value in cells.items()
        )
        assert line["loss"] == pytest.approx(weighted, rel=1e-5)
    assert lines[0]["dense_lr"] == pytest.approx(config.training.dense.lr / 2, rel=1e-6)
    assert lines[-1]["dense_lr"] < 0.2 * config.training.dense.lr  # the config decays linearly


def test_validation_is_logged_and_the_best_step_marked(
    run: Path, config: Config, logs: Path
) -> None:
    valid = lines_of(run, "valid")
    assert [line["epoch"] for line in valid] == [1, 2]
    rows = candidates_of(logs, "valid")
    for line in valid:
        assert line["all"]["tasks"]["click"]["rows"] == rows
        by_surface = [s["tasks"]["click"]["rows"] for s in line["surfaces"].values()]
        assert sum(by_surface) == rows
    values = [
        sum(task["auc"] for task in line["all"]["tasks"].values()) / len(config.tasks)
        for line in valid
    ]
    marked = json.loads((run / "checkpoints" / "best.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert marked["auc"] == summary["best_value"] == max(values)
    assert marked["step"] == summary["best_step"] == valid[values.index(max(values))]["step"]
    assert (run / "checkpoints" / marked["checkpoint"] / "complete.json").is_file()
    assert state_of(newest(run))["epoch"] == 2
    assert state_of(newest(run))["remaining"] is None


def test_a_run_learns(run: Path) -> None:
    losses = [line["loss"] for line in lines_of(run, "train")]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_weights_load_in_one_process(run: Path, config: Config) -> None:
    model = load_model(RunDirectory(run), config)
    assert not model.training
    # The statistics of numbers travel with the weights.
    assert float(model.trunk.request_numbers.mean.abs().max()) > 0


def test_an_existing_run_directory_is_refused(run: Path, config: Config, tmp_path: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as caught:
        train(config, run)
    assert str(caught.value) == (
        f"{run}: exists already; give another --run, or go on with it by --resume"
    )
    assert (run / "metrics.jsonl").read_bytes() == before
    other = tmp_path / "a file"
    other.write_text("")
    with pytest.raises(UserError, match="a file: exists already"):
        train(config, other)


def test_resuming_a_finished_run_changes_nothing(run: Path, config: Config) -> None:
    before = {p: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()}
    lines = lines_of(run)
    summary = train(config, run, resume=True)
    assert summary.pop("checkpoints")["count"] == 0
    expected = json.loads((run / "summary.json").read_text())
    assert expected.pop("checkpoints")["count"] > 0
    assert summary == expected
    after = {p: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()}
    assert after == before
    assert lines_of(run) == lines


def test_the_same_seed_gives_the_same_run_and_another_another(
    config: Config, run: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    train(config, again)
    assert lines_of(again) == lines_of(run)
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 2})})
    train(other, tmp_path / "other")
    assert lines_of(tmp_path / "other") != lines_of(run)


def test_early_stopping(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of five epochs, of which the second is best; patience 2 ends the run after the 4th."""
    section = config.training.model_copy(
        update={
            "epochs": 6,
            "early_stopping": config.training.early_stopping.model_copy(update={"patience": 2}),
        }
    )
    config = config.model_copy(update={"training": section})
    values = iter([0.5, 0.7, 0.6, 0.65, 0.9, 0.9])
    monkeypatch.setattr(training, "monitored", lambda *_: next(values))
    summary = train(config, tmp_path / "run")
    assert summary["epochs"] == 4
    assert summary["best_value"] == 0.7
    valid = lines_of(tmp_path / "run", "valid")
    assert summary["best_step"] == valid[1]["step"]
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")}
    steps = [valid[1]["step"], valid[2]["step"], valid[3]["step"]]
    assert kept == {f"step-{step:010d}" for step in steps}  # the newest two, and the best


def test_retrained_on_train_and_valid(config: Config, tmp_path: Path) -> None:
    """Every row of both is trained on, and the latest epoch is the best, whatever its metrics."""
    early = config.training.early_stopping.model_copy(update={"monitor": "none"})
    section = config.training.model_copy(update={"epochs": 2, "early_stopping": early})
    data = config.data.model_copy(update={"train": ("train", "valid")})
    both = config.model_copy(update={"training": section, "data": data})
    summary = train(both, tmp_path / "run")
    rows = sum(open_split(config, split).candidates for split in ("train", "valid"))
    assert summary["candidates"] == 2 * rows
    assert summary["best_value"] is None
    assert summary["best_step"] == summary["steps"]


def test_checkpoints_every_few_steps(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    every = {"epochs": 1, "checkpoint": {"every_steps": 3, "keep": 100}}
    section = config.training.model_validate({**config.training.model_dump(), **every})
    summary = train(config.model_copy(update={"training": section}), run)
    found = [state_of(path) for path in sorted((run / "checkpoints").glob("step-*"))]
    expected = sorted({*range(3, summary["steps"] + 1, 3), summary["steps"]})
    assert [state["step"] for state in found] == expected
    for state in found[:-1]:
        assert state["epoch"] == 0
        assert len(state["remaining"]) == 1  # one rank
    # The one at the end of the epoch is the newest state, also where a step was to be saved.
    assert (found[-1]["epoch"], found[-1]["remaining"]) == (1, None)


def test_a_loss_that_is_not_finite_stops_the_run(config: Config, tmp_path: Path) -> None:
    sparse = config.training.sparse.model_copy(update={"lr": 1e38})
    section = config.training.model_copy(update={"sparse": sparse})
    with pytest.raises(RunError) as caught:
        train(config.model_copy(update={"training": section}), tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("step ")
    assert "the loss is " in message
    assert any(f"surface {surface}, task " in message for surface in config.surfaces)
    assert "of the batch" in message
    assert "lower training.dense.lr or training.sparse.lr" in message


def test_a_faulty_split_leaves_no_statistics(config: Config, tmp_path: Path) -> None:
    data = config.data.model_copy(update={"root": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"no such folder; check data\.root"):
        train(config.model_copy(update={"data": data}), tmp_path / "run")
    assert not (tmp_path / "run" / "statistics").exists()


def test_bf16_trains(config: Config, tmp_path: Path) -> None:
    section = config.training.model_copy(update={"precision": "bf16", "epochs": 1})
    summary = train(config.model_copy(update={"training": section}), tmp_path / "run")
    assert summary["best_value"] > 0.4
    for name, value in load_model(RunDirectory(tmp_path / "run"), config).named_parameters():
        assert value.dtype == torch.float32, name


def test_some_surfaces_alone(logs: Path, tmp_path: Path) -> None:
    """`data.surfaces`: the rows of the others are passed over."""
    config = load_config(logs / "config.yaml", [*SMALL, "data.surfaces=[search]"])
    summary = train(config, tmp_path / "run")
    table = pq.read_table(logs / "train", columns=["candidates", "surface"]).to_pylist()
    expected = sum(len(row["candidates"]) for row in table if row["surface"] == "search")
    assert summary["candidates"] == expected
    (line,) = lines_of(tmp_path / "run", "valid")
    assert set(line["surfaces"]) == {"search"}

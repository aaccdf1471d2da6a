"""An interrupted run that goes on is the run that was never interrupted."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import Config, load_config
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.errors import RunError, UserError
from recsys.training import train as training
from recsys.training.step import Stepper
from recsys.training.stop import StopFlag
from recsys.training.train import train
from tests.training.conftest import SMALL
from tests.training.runs import (
    assert_same_run,
    assert_same_tensors,
    lines_of,
    newest,
    state_of,
    train_and_see,
    train_until,
)
from tests.two_ranks import TwoRanks

# With every kind of dropout, so that the random generators must be restored.
DROPOUT = (
    "model.sequence.dropout=0.1",
    "model.projection.dropout=0.1",
    "model.experts.dropout=0.1",
    "surfaces.home.tower.dropout=0.1",
)
# Rates that change from step to step, so that each must be that of its own step.
OPTIMISER = (
    "training.epochs=2",
    "training.dense.lr=0.01",
    "training.dense.decay=linear",
    "training.dense.weight_decay=0.01",
)
OVERRIDES = [*SMALL, *DROPOUT, *OPTIMISER]


@pytest.fixture(scope="module")
def config(logs: Path) -> Config:
    return load_config(logs / "config.yaml", OVERRIDES)


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    train(config, path)
    return path


def steps_of_first_epoch(run: Path) -> int:
    return sum(line["epoch"] == 0 for line in lines_of(run, "train"))


@pytest.mark.parametrize("where", ["first step", "mid-epoch", "last step of epoch", "epoch 2"])
def test_a_resumed_run_is_bit_identical(
    config: Config, whole: Path, tmp_path: Path, where: str
) -> None:
    epoch = steps_of_first_epoch(whole)
    # The flag is read once a step, and once more where an epoch ends.
    reads, at = {
        "first step": (1, 1),
        "mid-epoch": (4, 4),
        "last step of epoch": (epoch, epoch),
        "epoch 2": (epoch + 4, epoch + 3),
    }[where]
    run = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        train_until(config, run, reads)
    assert str(caught.value) == (
        f"stopped by SIGINT at step {at}; a checkpoint is saved: go on with --resume"
    )
    assert state_of(newest(run))["step"] == at
    train(config, run, resume=True)
    assert_same_run(run, whole)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_stopped_while_it_validates(
    config: Config, whole: Path, tmp_path: Path, epoch: int
) -> None:
    """It does not train the epoch again, nor leave out its validation."""

    class WhileValidating(StopFlag):
        reads = 0

        def is_set(self) -> bool:
            self.reads += 1
            return self.reads == 2 * epoch - 1  # the valid split is one batch, and its end another

    @contextmanager
    def stop_signals() -> Iterator[StopFlag]:
        yield WhileValidating()

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match="stopped by"):
        patch.setattr(training, "stop_signals", stop_signals)
        train(config, run)
    assert len(lines_of(run, "valid")) == epoch - 1
    assert state_of(newest(run))["to_validate"]
    assert state_of(newest(run))["epoch"] == epoch
    train(config, run, resume=True)
    assert_same_run(run, whole)


def fault_of(config: Config, run: Path) -> str:
    with pytest.raises(UserError) as caught:
        train(config, run)
    return str(caught.value)


def test_a_bad_value_in_the_valid_split_keeps_the_epoch(
    logs: Path, config: Config, whole: Path, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """Once it is mended, also by leaving out the row, the run goes on by validating."""
    root = tmp_path / "logs"
    shutil.copytree(logs, root)
    data = config.data.model_copy(update={"root": str(root)})
    config = config.model_copy(update={"data": data})
    (file,) = (root / "valid").glob("*.parquet")
    good = pq.read_table(file)
    at = good.schema.get_field_index("surface")
    bad = good.slice(0, 1).set_column(at, good.schema.field(at), [["nowhere"]])
    pq.write_table(pa.concat_tables([good, bad]), file)
    one, two = tmp_path / "run", tmp_path / "two"
    faults = [fault_of(config, one), *two_ranks.run(fault_of, config, two)]
    for fault, path in zip(faults, [one, two, two], strict=True):
        assert "nowhere" in fault
        step = state_of(newest(path))["step"]
        assert f"; a checkpoint of step {step} is saved: mend it and go on with" in fault
        assert state_of(newest(path))["to_validate"]
        assert step == len(lines_of(path, "train")) > 0
    shutil.copy(next((logs / "valid").glob("*.parquet")), file)
    train(config, one, resume=True)
    assert_same_run(one, whole)


def test_a_run_interrupted_many_times(config: Config, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for at in (2, 3, 1, 5):
        with pytest.raises(RunError, match="stopped by SIGINT"):
            train_until(config, run, at, resume=True)
    train(config, run, resume=True)
    assert_same_run(run, whole)


def test_a_run_that_samples_and_learns_its_weights_resumes_bit_identical(
    logs: Path, tmp_path: Path
) -> None:
    more = ["surfaces.home.request_sampling=0.4", "training.balance.kind=uncertainty"]
    config = load_config(logs / "config.yaml", [*OVERRIDES, *more])
    summary = train(config, tmp_path / "whole")
    every = read_candidates(logs / "train")
    assert 0 < summary["candidates"] < 2 * 0.9 * every
    rates = [line["dense_lr"] for line in lines_of(tmp_path / "whole", "train")]
    assert rates[-1] < 0.15 * max(rates)  # the schedule counts what was left out
    last = lines_of(tmp_path / "whole", "train")[-1]["balance"]
    assert {s: list(tasks) for s, tasks in last.items()} == {
        s: list(each.tasks) for s, each in config.surfaces.items()
    }
    assert len({weight for tasks in last.values() for weight in tasks.values()}) == 6
    for at in (3, 4, 6):
        with pytest.raises(RunError, match="stopped by SIGINT"):
            train_until(config, tmp_path / "run", at, resume=True)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_crash_loses_only_what_followed_the_checkpoint(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lost steps left in the log goes, too."""
    run = tmp_path / "run"
    every = config.training.checkpoint.model_copy(update={"every_steps": 3})
    section = config.training.model_copy(update={"checkpoint": every})
    often = config.model_copy(update={"training": section})
    step = Stepper.step

    def crash(self: Stepper, batch: Any, totals: Any, number: int, progress: float) -> Any:
        if number == 5:
            raise MemoryError
        return step(self, batch, totals, number, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", crash)
        with pytest.raises(MemoryError):
            train(often, run)
    assert state_of(newest(run))["step"] == 3
    assert lines_of(run)[-1]["step"] == 5
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # the crash came while a line was written
    train(config, run, resume=True)  # how often is saved may change
    assert_same_run(run, whole)


def test_a_damaged_checkpoint_is_passed_over_and_replaced(
    config: Config, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    for at in (3, 2):
        with pytest.raises(RunError):
            train_until(config, run, at, resume=True)
    damaged = newest(run)
    assert damaged.name == "step-0000000005"
    data = next(damaged.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING), pytest.raises(RunError, match="at step 5;"):
        train_until(config, run, 2, resume=True)
    assert f"{damaged} is incomplete or damaged: using the checkpoint before it" in caplog.text
    caplog.clear()
    train(config, run, resume=True)
    assert "incomplete or damaged" not in caplog.text
    assert_same_run(run, whole)


def command(logs: Path, run: Path, *more: str) -> list[str]:
    sets = [part for override in OVERRIDES for part in ("--set", override)]
    recsys = [sys.executable, "-m", "recsys.cli", "train", str(logs / "config.yaml")]
    return [*recsys, "--run", str(run), *sets, *more]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_a_checkpoint_to_go_on_from(
    logs: Path, config: Config, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A real process, stopped in the middle of an epoch of many."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(logs, run, "--set", "training.epochs=500"),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count('"train"') >= 3):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    step = state_of(newest(run))["step"]
    assert f"recsys: stopped by {number.name} at step {step}; a checkpoint is saved" in errors
    assert [line["step"] for line in lines_of(run, "train")] == list(range(1, step + 1))
    # What remains of two epochs, and not of the 500, is trained; learning rates were others.
    if step < 2 * steps_of_first_epoch(whole):
        assert train(config, run, resume=True)["epochs"] == 2


def test_another_configuration_is_refused_by_its_key(
    logs: Path, config: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError):
        train_until(config, run, 1)
    kept = (run / "config.yaml").read_text()
    refused = [
        ("model.experts.hidden=[16]", "model.experts.hidden: is [16] here but [8] in "),
        ("training.dense.lr=0.5", "training.dense.lr: is 0.5 here but 0.01 in "),
        ("training.seed=7", "training.seed: is 7 here but "),
        ("training.batch_candidates=64", "training.batch_candidates: is 64 here but 128 in "),
        ("tables.item.rows=2000", "tables.item.rows: is 2000 here but "),
        ("model.crossing=null", "model.crossing"),
        ("surfaces.home.tasks={click: 2, like: 1}", "surfaces.home.tasks.click: is 2.0 here but 1"),
    ]
    for override, message in refused:
        changed = load_config(logs / "config.yaml", [*OVERRIDES, override])
        with pytest.raises(UserError) as caught:
            train(changed, run, resume=True)
        assert str(caught.value).startswith(message), override
        assert str(run / "config.yaml") in str(caught.value)
        assert str(caught.value).endswith("Put it back, or start a new --run")
    assert (run / "config.yaml").read_text() == kept


def test_another_order_of_surfaces_or_features_is_refused(config: Config, tmp_path: Path) -> None:
    """Weights belong to surfaces and features by position: they would be mixed up in silence."""
    run = tmp_path / "run"
    with pytest.raises(RunError):
        train_until(config, run, 1)
    surfaces = dict(reversed(config.surfaces.items()))
    with pytest.raises(UserError) as caught:
        train(config.model_copy(update={"surfaces": surfaces}), run, resume=True)
    assert "--resume needs the same order of keys" in str(caught.value)
    assert "surfaces." in str(caught.value)
    candidate = dict(reversed(config.features.candidate.items()))
    features = config.features.model_copy(update={"candidate": candidate})
    with pytest.raises(UserError, match="the same order of keys"):
        train(config.model_copy(update={"features": features}), run, resume=True)


def test_what_may_change_does(logs: Path, config: Config, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError):
        train_until(config, run, 2)
    free = [
        "name=renamed",
        "data.prefetch_batches=2",
        "training.checkpoint.keep=5",
        "training.early_stopping.patience=2",
        "training.timeout_seconds=61",
        "evaluation.keep=[user_id]",
    ]
    train(load_config(logs / "config.yaml", [*OVERRIDES, *free]), run, resume=True)
    assert_same_tensors(newest(run), newest(whole))
    assert load_config(run / "config.yaml").name == "renamed"


def test_values_of_another_monitor_are_not_compared(
    one_epoch: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An AUC is below any NE here: compared with it, no epoch would ever be better again."""
    run, best = tmp_path / "run", tmp_path / "run" / "checkpoints" / "best.json"
    train(one_epoch, run)
    first = json.loads(best.read_text())
    assert 0 < first["auc"] < 0.9
    early = one_epoch.training.early_stopping.model_copy(update={"monitor": "ne"})
    section = one_epoch.training.model_copy(update={"early_stopping": early})
    with caplog.at_level(logging.WARNING):
        summary = train(one_epoch.model_copy(update={"training": section}), run, resume=True)
    assert "monitor: was auc and is ne: step " in caplog.text
    assert summary["best_step"] == first["step"]
    assert summary["best_value"] is None
    assert json.loads(best.read_text()) == first  # nothing was validated since
    section = section.model_copy(update={"epochs": 2})
    summary = train(one_epoch.model_copy(update={"training": section}), run, resume=True)
    assert summary["best_step"] == 2 * first["step"]
    assert summary["best_value"] > 0.9
    assert json.loads(best.read_text())["ne"] == summary["best_value"]


def test_resume_begins_a_run_that_has_not_begun(
    config: Config, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(config, run, resume=True)
    assert_same_run(run, whole)


def test_other_threads_are_warned_of(
    logs: Path, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError):
        train_until(config, run, 1)
    changed = load_config(logs / "config.yaml", [*OVERRIDES, "training.threads=2"])
    with caplog.at_level(logging.WARNING), pytest.raises(RunError):
        train_until(changed, run, 1, resume=True)
    assert (
        "resumed with another threads than the checkpoint's: training goes on, but not bit for bit "
        "as it would have"
    ) in caplog.text
    assert "another plan" not in caplog.text
    assert "another world" not in caplog.text


def batches_of(config: Config, run: Path) -> int:
    """How many batches this rank has in the first epoch."""
    rank, size = int(os.environ["RANK"]), config.training.batch_candidates
    statistics = Statistics.load(run / "statistics")
    with Reader(config, "train", statistics, rank=rank, world=2, batch_candidates=size) as reader:
        return sum(1 for _ in reader)


def read_candidates(split: Path) -> int:
    table = pq.read_table(split, columns=["candidates"])
    return sum(map(len, table["candidates"].to_pylist()))


@pytest.fixture(scope="module")
def one_epoch(config: Config) -> Config:
    section = config.training.model_copy(update={"epochs": 1})
    return config.model_copy(update={"training": section})


@pytest.fixture(scope="module")
def everything(one_epoch: Config, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The candidates of one epoch."""
    seen, summary = train_and_see(one_epoch, tmp_path_factory.mktemp("all") / "run")
    assert isinstance(summary, dict)
    assert summary["candidates"] == seen.total()
    assert len(seen) == seen.total()  # each is told from all others
    return seen


def test_two_ranks_train_each_candidate_once(
    one_epoch: Config, everything: Any, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    (first, summary), (second, other) = two_ranks.run(train_and_see, one_epoch, tmp_path / "run")
    for each in (summary, other):
        assert each.pop("checkpoints")["count"] == 1
    assert summary == other
    assert first + second == everything
    assert min(first.total(), second.total()) > 0.3 * everything.total()
    assert summary["candidates"] == everything.total()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_another_number_of_ranks_goes_on_with_what_is_left(
    one_epoch: Config,
    everything: Any,
    two_ranks: TwoRanks,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: int,
    after: int,
) -> None:
    """Every candidate of the epoch once, whichever rank trains on it."""
    run = tmp_path / "run"
    if before == 1:
        began = [train_and_see(one_epoch, run, {0: 3})]
    else:
        began = two_ranks.run(train_and_see, one_epoch, run, {1: 2})  # one rank is told to stop
    for number, (_, stopped) in enumerate(began):
        who = "SIGINT" if number == len(began) - 1 else "another rank"
        assert str(stopped).startswith(f"stopped by {who} at step {3 if before == 1 else 2};")
    assert len(state_of(newest(run))["remaining"]) == before
    with caplog.at_level(logging.WARNING):
        if after == 1:
            ended = [train_and_see(one_epoch, run, resume=True)]
        else:
            ended = two_ranks.run(train_and_see, one_epoch, run, None, True)
    if after == 1:
        assert "resumed with another world than the checkpoint's" in caplog.text
        assert "resumed with another plan than the checkpoint's" in caplog.text
    seen = sum((part for part, _ in [*began, *ended]), start=type(everything)())
    assert seen == everything
    for _, summary in ended:
        assert isinstance(summary, dict), summary
        assert summary["candidates"] == everything.total()
        assert summary["epochs"] == 1


def test_ranks_with_unequal_numbers_of_batches_end_together(
    logs: Path, two_ranks: TwoRanks, everything: Any, tmp_path: Path
) -> None:
    """In training and in validation; nothing is dropped and nobody waits for ever."""
    overrides = ["training.epochs=1", "training.batch_candidates=16"]
    config = load_config(
        logs / "config.yaml", [*OVERRIDES, *overrides, "evaluation.batch_candidates=16"]
    )
    found = two_ranks.run(train_and_see, config, tmp_path / "run")
    (first, summary), (second, _) = found
    assert first + second == everything
    steps = two_ranks.run(batches_of, config, tmp_path / "run")
    assert steps[0] != steps[1]
    assert summary["steps"] == max(steps)
    (line,) = lines_of(tmp_path / "run", "valid")
    valid = read_candidates(logs / "valid")
    assert line["all"]["tasks"]["click"]["rows"] == valid


def test_a_run_of_two_ranks_resumes_bit_identical(
    one_epoch: Config, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    two_ranks.run(train_and_see, one_epoch, tmp_path / "whole")
    two_ranks.run(train_and_see, one_epoch, tmp_path / "run", {0: 3})
    two_ranks.run(train_and_see, one_epoch, tmp_path / "run", None, True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert {rank for table in plan["tables"].values() for rank in table["ranks"]} == {0, 1}

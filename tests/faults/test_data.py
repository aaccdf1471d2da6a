"""Data that changes under a run: it stops with what to do, and nothing is lost."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys.config import Config, load_config
from recsys.data.rowgroups import RowGroups
from recsys.errors import UserError
from recsys.training.train import train
from tests.faults.conftest import TROUBLED, Experiment
from tests.faults.jobs import Job
from tests.training.runs import assert_same_run, newest, state_of, train_and_see
from tests.two_ranks import TwoRanks


@contextmanager
def without(file: Path) -> Iterator[None]:
    """While the file is elsewhere."""
    away = file.with_name(f"_{file.name}.away")
    file.rename(away)
    try:
        yield
    finally:
        away.rename(file)


def train_while_it_vanishes(config: Config, run: Path, number: int) -> str:
    """Takes the file away from which rank 0 wants its `number`th row group of training.

    Files are opened for each row group: a local file that is open stays readable when it is gone,
    but one on an object store does not.
    """
    table = RowGroups.table
    left = number if os.environ.get("RANK", "0") == "0" else -1
    away: list[tuple[Path, Path]] = []

    def vanish(self: RowGroups, group: int) -> object:
        nonlocal left
        # Statistics and the plan's lengths are read before, and in the main thread.
        left -= threading.current_thread() is not threading.main_thread()
        if left == 0:
            file = Path(self.split.files[self.split.row_groups[group].file])
            away.append((file.rename(file.with_name(f"_{file.name}.away")), file))
        while self._open:
            self._open.popitem()[1][0].close(force=True)
        return table(self, group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowGroups, "table", vanish)
        try:
            train(config, run, resume=True)
        except UserError as error:
            return str(error)
        finally:
            for now, before in away:
                now.rename(before)
    return "it went on"


def test_a_file_vanishes(experiment: Experiment, tmp_path: Path) -> None:
    run = tmp_path / "run"
    message = train_while_it_vanishes(experiment.config, run, 9)
    assert re.match(r"\S+/train/part-\d+.parquet: not readable as Parquet \(", message)
    step = state_of(newest(run))["step"]
    assert step > 0
    assert message.endswith(
        f"; a checkpoint of step {step} is saved: mend it and go on with --resume"
    )
    train(experiment.config, run, resume=True)
    assert_same_run(run, experiment.whole)


def test_a_file_vanishes_under_two_ranks(
    experiment_of_two: Experiment, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """Whichever rank meets it, both stop in the same step with the same message."""
    run = tmp_path / "run"
    first, second = two_ranks.run(train_while_it_vanishes, experiment_of_two.config, run, 6)
    assert first == second
    assert "not readable as Parquet" in first
    assert f"a checkpoint of step {state_of(newest(run))['step']} is saved" in first
    two_ranks.run(train_and_see, experiment_of_two.config, run, None, True)
    assert_same_run(run, experiment_of_two.whole)


def test_a_file_that_is_gone_at_the_next_epoch_is_noticed(
    experiment: Experiment, tmp_path: Path
) -> None:
    """A folder is listed at each epoch: fewer files would train on fewer rows in silence."""
    run, split = tmp_path / "run", Path(experiment.config.data.root) / "train"
    short = load_config(experiment.path, [*TROUBLED, "training.epochs=1"])
    train(short, run)
    file = sorted(split.glob("part-*.parquet"))[1]
    files = len(list(split.glob("part-*.parquet")))
    with without(file), pytest.raises(UserError) as caught:
        train(experiment.config, run, resume=True)
    assert str(caught.value).startswith(f"{split}: has {files - 1} files with ")
    assert f"but the run began with {files} files with " in str(caught.value)
    assert str(caught.value).endswith("put them back and go on with --resume, or start a new --run")


def test_a_valid_split_that_changed_is_noticed(experiment: Experiment, tmp_path: Path) -> None:
    """Metrics of two epochs would be of different rows, and the best step chosen by them."""
    run, split = tmp_path / "run", Path(experiment.config.data.root) / "valid"
    train(load_config(experiment.path, [*TROUBLED, "training.epochs=1"]), run)
    whole = sorted(split.glob("part-*.parquet"))[0]
    twin = split / "part-99999.parquet"
    twin.write_bytes(whole.read_bytes())
    try:
        with pytest.raises(UserError, match=r"valid: has \d+ files with \d+ requests, but"):
            train(experiment.config, run, resume=True)
    finally:
        twin.unlink()


@pytest.mark.slow
def test_a_file_vanishes_under_torchrun(
    experiment: Experiment, launch: Callable[..., Job], tmp_path: Path
) -> None:
    """A real job in which a file is gone at the second epoch: restarts do not help, it says why."""
    run = tmp_path / "run"
    job = launch(experiment, run, world=2, restarts=1)
    job.wait_until(lambda: job.steps_logged() >= 2)
    file = sorted((Path(experiment.config.data.root) / "train").glob("part-*.parquet"))[0]
    with without(file):
        assert job.end() != 0
    errors = job.errors()
    assert "recsys: " in errors
    assert "put them back and go on with --resume" in errors or "not readable" in errors
    again = launch(experiment, run, world=2)
    assert again.end() == 0, again.errors()[-3000:]

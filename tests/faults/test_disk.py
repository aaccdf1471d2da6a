"""A full disk and damaged files."""

import re
from contextlib import suppress
from pathlib import Path

import pytest

from recsys.errors import RunError, UserError
from recsys.training import checkpoint
from recsys.training.metrics_log import MetricsLog
from recsys.training.train import train
from tests.faults.conftest import Experiment
from tests.small_disk import SmallDisk
from tests.training.runs import assert_same_run, newest, train_until


def test_a_full_disk(experiment: Experiment, small_disk: SmallDisk) -> None:
    """The run stops and says so, what was saved before is whole, and with room it goes on."""
    run = small_disk.path / "run"
    checkpoint_size = sum(f.stat().st_size for f in newest(experiment.whole).iterdir())
    small_disk.resize(round(2.5 * checkpoint_size / 2**10))
    with pytest.raises(UserError) as caught:
        train(experiment.config, run)
    message = (
        r"cannot write the checkpoint \(.*; \d+ MiB are free\); free some space and go on with"
    )
    assert re.search(message, str(caught.value))
    assert checkpoint.is_complete(newest(run))
    assert not list(
        (run / "checkpoints").glob(".step-*")
    )  # what was half-written is not in the way
    small_disk.resize(256 * 1024)
    train(experiment.config, run, resume=True)
    assert_same_run(run, experiment.whole)


def fill(disk: SmallDisk) -> Path:
    filler = disk.path / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler


def test_no_room_to_resume(experiment: Experiment, small_disk: SmallDisk) -> None:
    """What fills the disk is something else, between two checkpoints."""
    run = small_disk.path / "run"
    with pytest.raises(RunError, match="stopped by SIGINT"):
        train_until(experiment.config, run, 2)
    filler = fill(small_disk)
    with pytest.raises(UserError, match=r"run: cannot be written \(No space left on device\)"):
        train(experiment.config, run, resume=True)
    filler.unlink()
    train(experiment.config, run, resume=True)
    assert_same_run(run, experiment.whole)


def test_no_room_for_a_line_of_the_log(small_disk: SmallDisk) -> None:
    file = small_disk.path / "metrics.jsonl"
    log = MetricsLog(file, small_disk.path / "tensorboard", active=True)
    log.write("train", 1, {"loss": 0.5})
    fill(small_disk)
    with pytest.raises(UserError) as caught:
        for step in range(2, 1000):  # what is left of a page takes some lines
            log.write("train", step, {"loss": 0.5})
    assert str(caught.value) == (
        f"{file}: cannot be written (No space left on device); free some space and go on with "
        "--resume"
    )
    log.close()


QUICK = "*.distcp", "bit flipped"


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 16
    file.write_bytes(bytes(content))


DAMAGES = [
    pytest.param(what, how, marks=() if (what, how) == QUICK else pytest.mark.slow)
    for what in ("*.distcp", ".metadata", "state.json", "complete.json")
    for how in ("truncated", "bit flipped")
]


@pytest.mark.parametrize(("what", "how"), DAMAGES)
def test_a_damaged_file_of_the_newest_checkpoint(
    experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, how: str
) -> None:
    run = tmp_path / "run"
    for at in (3, 3):
        with pytest.raises(RunError, match="stopped by SIGINT"):
            train_until(experiment.config, run, at, resume=True)
    damaged = newest(run)
    damage(next(damaged.glob(what)), how)
    train(experiment.config, run, resume=True)
    assert f"{damaged} is incomplete or damaged: using the checkpoint before it" in caplog.text
    assert_same_run(run, experiment.whole)


def test_no_checkpoint_is_whole(experiment: Experiment, tmp_path: Path) -> None:
    """To begin again would throw the run away; somebody must decide that."""
    run = tmp_path / "run"
    with pytest.raises(RunError, match="stopped by SIGINT"):
        train_until(experiment.config, run, 2)
    damage(next(newest(run).glob("*.distcp")), "truncated")
    with pytest.raises(UserError) as caught:
        train(experiment.config, run, resume=True)
    assert str(caught.value) == (
        f"{run / 'checkpoints'}: none of its 1 checkpoints is whole; bring one back from a copy, "
        "or start a new --run"
    )

"""Checkpoints: complete or invisible."""

import errno
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.errors import UserError
from recsys.training import checkpoint
from recsys.training.checkpoint import Progress, folder, write
from recsys.training.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def save(path: Path, step: int, value: float = 1.0, **progress: Any) -> Path:
    tensors = {"model": {"weight": torch.full((3, 2), value), "bias": torch.arange(3.0)}}
    writer = checkpoint.Writer(path, ALONE, keep=9, background=False)
    return writer.save(tensors, Progress(step=step, **progress))


def weight_of(path: Path) -> float:
    tensors = {"model": {"weight": torch.zeros(3, 2)}}
    checkpoint.load(path, tensors, alone=True)
    return float(tensors["model"]["weight"][2, 1])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 7, 0.25, epoch=1, remaining=[[[3, 9]]], plan={"tables": {}}, threads=2)
    assert path == tmp_path / "step-0000000007"
    assert checkpoint.is_complete(path)
    assert checkpoint.latest(tmp_path) == path
    assert weight_of(path) == 0.25
    progress = checkpoint.read_progress(path)
    assert progress == Progress(
        step=7, epoch=1, remaining=[[[3, 9]]], plan={"tables": {}}, threads=2
    )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def leave_nothing(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [flip_a_bit, truncate, leave_nothing, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["*.distcp", ".metadata", "state.json", "complete.json"])
def test_a_damaged_checkpoint_is_invisible(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Any
) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    damage(next(newer.glob(file)))
    assert not checkpoint.is_complete(newer)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(tmp_path) == older
    assert f"{newer} is incomplete or damaged: using the checkpoint before it" in caplog.text


def test_a_file_too_many_is_damage_too(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "__1_0.distcp").write_bytes(b"of a run on two ranks")
    assert not checkpoint.is_complete(path)


def test_nothing_to_find(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    assert checkpoint.best(tmp_path / "none") is None
    leave_nothing(save(tmp_path, 1) / "complete.json")
    assert checkpoint.latest(tmp_path) is None


def test_an_interrupted_save_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before the rename: what is there is hidden, and the next save clears it."""
    older = save(tmp_path, 1)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder, "put_in_place", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [older]
    newer = save(tmp_path, 2, 5.0)
    assert weight_of(newer) == 5.0
    assert sorted(tmp_path.iterdir()) == [older, newer]


def test_a_later_save_of_the_same_step_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3, 1.0)
    truncate(next((tmp_path / "step-0000000003").glob("*.distcp")))
    path = save(tmp_path, 3, 2.0, epoch=1)
    assert checkpoint.is_complete(path)
    assert weight_of(path) == 2.0
    assert checkpoint.read_progress(path).epoch == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("where", ["fsync", "write_json"])
def test_a_full_disk_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whoever meets it: DCP, which wraps the error in one of its own, or the files beside."""
    older = save(tmp_path, 1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else write, where, full)
        with pytest.raises(UserError) as caught:
            save(tmp_path, 2)
    begin = (
        f"{tmp_path / 'step-0000000002'}: cannot write the checkpoint (No space left on device; "
    )
    assert str(caught.value).startswith(begin)
    end = r"[\d,]+ MiB are free\); free some space and go on with --resume"
    assert re.fullmatch(end, str(caught.value).removeprefix(begin))
    assert list(tmp_path.iterdir()) == [older]  # nor does what was written take up the disk


def test_the_best_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = (save(tmp_path, step) for step in (1, 2, 3))
    assert checkpoint.best(tmp_path) == third  # none validated yet
    checkpoint.mark_best(tmp_path, 2, "auc", 0.75)
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "checkpoint": "step-0000000002",
        "step": 2,
        "auc": 0.75,
    }
    assert checkpoint.best(tmp_path) == second
    truncate(second / ".metadata")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.best(tmp_path) == third
    assert f"{second} is incomplete or damaged: using the newest one that is not" in caplog.text
    (tmp_path / "best.json").write_text("{")
    assert checkpoint.best(tmp_path) == third
    assert first.exists()


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        (tmp_path / checkpoint.step_name(step)).mkdir()

    def left() -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in checkpoint.steps(tmp_path)]

    checkpoint.prune(tmp_path, 4, 1, 6)
    assert left() == [1, 3, 4, 5, 6]
    # A run that went on from step 3 and is at 4: what is later was damaged and does not count.
    checkpoint.prune(tmp_path, 1, None, 4)
    assert left() == [4, 5, 6]
    checkpoint.prune(tmp_path, 2, None, 6)
    assert left() == [5, 6]


def test_steps_sort_by_number(tmp_path: Path) -> None:
    for step in (1_000_000, 20, 3):
        (tmp_path / checkpoint.step_name(step)).mkdir()
    assert [int(p.name[5:]) for p in checkpoint.steps(tmp_path)] == [3, 20, 1_000_000]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"model": {"weight": torch.zeros(4, 2)}}, "Size mismatch between saved"),
        ({"model": {"other": torch.zeros(3, 2)}}, "model.other"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    tmp_path: Path, tensors: dict[str, Any], reason: str
) -> None:
    path = save(tmp_path, 1)
    with pytest.raises(UserError) as caught:
        checkpoint.load(path, tensors, alone=True)
    assert str(caught.value).startswith(f"{path}: does not fit this configuration: ")
    assert reason in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_random_state_is_put_back() -> None:
    state = checkpoint.random_state(ALONE)
    assert set(state) == {"rng.1.0.cpu"}
    drawn = torch.rand(5)
    assert not torch.equal(torch.rand(5), drawn)
    checkpoint.set_random_state(state, ALONE)
    assert torch.equal(torch.rand(5), drawn)
    assert set(checkpoint.random_state(Ranks(1, 2, torch.device("cpu")))) == {"rng.2.1.cpu"}

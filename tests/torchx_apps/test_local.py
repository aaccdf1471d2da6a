"""`torchx run -s local_cwd` on two ranks, disturbed and undisturbed."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.torchx_apps.jobs import (
    LOCAL,
    OVERRIDES,
    assert_ends_like,
    environment,
    ranks_of,
    saved_step,
    start,
    train_command,
    wait_for,
)
from tests.training.runs import lines_of, newest, state_of


def test_it_trains_on_two_ranks(undisturbed: tuple[Path, str]) -> None:
    run, shown = undisturbed
    state = state_of(newest(run))
    assert (state["world"], state["epoch"]) == (2, 2)
    assert [line["step"] for line in lines_of(run, "train")] == list(range(1, state["step"] + 1))
    assert "job finished: SUCCEEDED" in shown


def test_its_logs_reach_the_screen_and_say_rank_and_step(undisturbed: tuple[Path, str]) -> None:
    run, shown = undisturbed
    step = state_of(newest(run))["step"]
    assert f"[rank 0/2, step {step}] epoch 2: valid auc" in shown
    assert f"{step} steps, " in shown


@pytest.mark.slow
def test_another_job_is_refused_the_same_run(logs: Path, undisturbed: tuple[Path, str]) -> None:
    run, _ = undisturbed
    before = lines_of(run)
    command = train_command(LOCAL, logs, run, "-j", "1x2", *OVERRIDES)
    done = subprocess.run(
        command, cwd=run.parent, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"recsys: {run}: exists already; give another --run" in done.stderr
    assert lines_of(run) == before


def test_a_job_whose_rank_is_killed_goes_on_by_itself(
    logs: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    restarts = ["-j", "1x2", "--max_restarts", "2"]
    process = start(
        train_command(LOCAL, logs, run, *restarts, *OVERRIDES), tmp_path, tmp_path / "shown"
    )
    alive = lambda: process.poll() is None  # noqa: E731
    wait_for(lambda: saved_step(run) >= 2, 120, "a checkpoint", alive)
    first = ranks_of(run)
    assert len(first) == 2
    os.kill(first[1], signal.SIGKILL)
    assert process.wait(120) == 0, (tmp_path / "shown").read_text()[-3000:]
    assert "resumed from" in (tmp_path / "shown").read_text()
    assert_ends_like(run, undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchx_leaves_a_checkpoint(
    logs: Path, undisturbed: tuple[Path, str], tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, or SIGTERM from whatever started it; then the run is gone on with."""
    run = tmp_path / "run"
    endless = [*OVERRIDES, "training.checkpoint.every_steps=null", "training.epochs=500"]
    process = start(
        train_command(LOCAL, logs, run, "-j", "1x2", *endless), tmp_path, tmp_path / "shown"
    )
    alive = lambda: process.poll() is None  # noqa: E731
    log = run / "metrics.jsonl"
    wait_for(lambda: log.exists() and len(lines_of(run)) >= 3, 120, "a step", alive)
    assert saved_step(run) == 0
    process.send_signal(number)
    assert process.wait(30) != 0
    wait_for(lambda: not ranks_of(run), 10, "the ranks to end", lambda: True)
    step = saved_step(run)
    assert step == lines_of(run, "train")[-1]["step"]
    resume = ["-j", "1x2", "--resume", "True"]
    command: list[Any] = train_command(LOCAL, logs, run, *resume, *OVERRIDES)
    subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert_ends_like(run, undisturbed[0])

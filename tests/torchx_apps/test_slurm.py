"""`torchx run -s slurm` on two nodes of a real Slurm: undisturbed, cancelled, requeued, killed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torchx_apps.jobs import (
    LOCAL,
    OVERRIDES,
    assert_ends_like,
    environment,
    ranks_of,
    saved_step,
    train_command,
    wait_for,
)
from tests.training.runs import lines_of
from tests.two_nodes import GRACE_SECONDS, SCRIPT, TwoNodes, two_nodes

ENDLESS = ("training.epochs=500", "training.early_stopping.patience=500")
NO_CHECKPOINTS = "training.checkpoint.every_steps=null"


@pytest.fixture(scope="module")
def slurm() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        yield cluster


def scheduler(folder: Path) -> list[str]:
    return ["-s", "slurm", "-cfg", f"partition=debug,job_dir={folder}/job-{time.time_ns()}"]


def submit(slurm: TwoNodes, logs: Path, run: Path, *more: str) -> str:
    """The id of a training job of two nodes with a rank each."""
    command = train_command(scheduler(run.parent), logs, run, "-j", "2x1", *more)
    return submitted(slurm, command, run.parent)


def submitted(slurm: TwoNodes, command: list[str], folder: Path) -> str:
    """The id of the job that a command of TorchX submits."""
    workspace = folder / "workspace"  # TorchX copies it to the job
    workspace.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=workspace,
        env=environment(slurm.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    # On Slurm before 23.02 TorchX fails after it has submitted, when it asks how a job that still
    # waits is doing.
    prefix = "slurm://torchx/"
    assert done.stdout.startswith(prefix), done.stderr[-3000:]
    assert done.returncode == 0 or "KeyError: 'job_resources'" in done.stderr
    return done.stdout.strip().removeprefix(prefix)


def log_of(run: Path) -> str:
    """What all parts of all jobs of a run wrote."""
    return "".join(file.read_text() for file in sorted(run.parent.glob("job-*/slurm-*")))


@pytest.mark.slow
def test_two_nodes_end_like_two_local_ranks(
    slurm: TwoNodes, logs: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(slurm, logs, run, *OVERRIDES)
    assert slurm.wait(job) == "COMPLETED", log_of(run)[-3000:]
    assert_ends_like(run, undisturbed[0])
    assert "[rank 0/2, step 12] epoch 2: valid auc" in log_of(run)


@pytest.mark.slow
def test_a_requeued_job_ends_like_an_undisturbed_one(
    slurm: TwoNodes, logs: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(slurm, logs, run, *OVERRIDES)
    alive = lambda: slurm.state(job) in ("PENDING", "RUNNING")  # noqa: E731
    wait_for(lambda: saved_step(run) >= 2, 120, "a checkpoint", alive)
    slurm.run("scontrol", "requeue", job)
    assert slurm.wait(job) == "COMPLETED", log_of(run)[-3000:]
    assert slurm.restarts(job) == 1
    assert "resumed from" in log_of(run)
    assert_ends_like(run, undisturbed[0])


@pytest.mark.slow
def test_a_cancelled_job_leaves_a_checkpoint_in_time(
    slurm: TwoNodes, logs: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # With a retry to spare: whoever cancels a job does not want it back.
    job = submit(slurm, logs, run, "--max_retries", "1", *OVERRIDES, *ENDLESS, NO_CHECKPOINTS)
    log = run / "metrics.jsonl"
    alive = lambda: slurm.state(job) in ("PENDING", "RUNNING")  # noqa: E731
    wait_for(lambda: log.exists() and len(lines_of(run)) >= 3, 120, "a step", alive)
    assert saved_step(run) == 0
    asked = time.monotonic()
    slurm.run("scancel", job)
    wait_for(lambda: not ranks_of(run), GRACE_SECONDS, "the ranks to end", lambda: True)
    assert time.monotonic() - asked < GRACE_SECONDS
    assert slurm.wait(job) == "CANCELLED"
    assert slurm.restarts(job) == 0
    step = saved_step(run)
    assert step == lines_of(run, "train")[-1]["step"]
    assert f"stopped by SIGTERM at step {step}; a checkpoint is saved" in log_of(run)
    resume = train_command(LOCAL, logs, run, "-j", "1x2", "--resume", "True", *OVERRIDES)
    subprocess.run(resume, cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert_ends_like(run, undisturbed[0])


@pytest.mark.slow
def test_a_job_whose_rank_is_killed_is_retried(
    slurm: TwoNodes, logs: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    """Without restarts by torchrun the job fails, and TorchX's script has it requeued."""
    run = tmp_path / "run"
    job = submit(slurm, logs, run, "--max_retries", "1", *OVERRIDES)
    alive = lambda: slurm.state(job) in ("PENDING", "RUNNING")  # noqa: E731
    wait_for(lambda: saved_step(run) >= 2, 120, "a checkpoint", alive)
    os.kill(ranks_of(run)[1], signal.SIGKILL)
    assert slurm.wait(job) == "COMPLETED", log_of(run)[-3000:]
    assert slurm.restarts(job) == 1
    assert_ends_like(run, undisturbed[0])


@pytest.mark.slow
def test_a_surface_that_fails_does_not_stop_the_others(
    slurm: TwoNodes, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    run, out = undisturbed[0], tmp_path / "exports"
    job = submitted(
        slurm,
        [
            *("torchx", "run", *scheduler(tmp_path), "recsys.each_surface", "--verb", "export"),
            *("--run", str(run), "--surfaces", "nowhere,search", "--", "--out", str(out)),
        ],
        tmp_path,
    )
    assert slurm.wait(job) == "FAILED"
    assert [folder.name for folder in out.iterdir()] == ["search"]
    shown = log_of(tmp_path / "run")
    assert "1 of 2 surfaces are done" in shown
    [why] = [line for line in shown.splitlines() if "failed (1)" in line]
    assert "nowhere" in why and "not a surface of this run" in why


@pytest.mark.slow
def test_the_script_does_not_start_twice(slurm: TwoNodes) -> None:
    assert slurm.run(str(SCRIPT), "status").count("debug*") == 2
    again = subprocess.run(
        [str(SCRIPT), "up"],
        env={**os.environ, **slurm.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert "exists already; look at it by: " in again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="it says first that it must be root")
def test_the_script_names_the_packages_it_needs_and_installs_nothing(tmp_path: Path) -> None:
    for program in ("bash", "id", "cat"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    done = subprocess.run(
        ["bash", str(SCRIPT), "up"],
        env={"PATH": str(tmp_path), "SLURM_DIR": str(tmp_path / "slurm")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "slurm_two_nodes: not found: munged slurmctld slurmd sinfo; on Debian or Ubuntu: "
        "apt-get install slurm-wlm munge\n"
    )
    assert not (tmp_path / "slurm").exists()

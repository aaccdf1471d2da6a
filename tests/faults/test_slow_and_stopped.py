"""A rank that is slow, and a job that is told to stop."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import TROUBLED, Experiment
from tests.faults.jobs import Job
from tests.training.runs import assert_same_run, newest, state_of

TIMEOUT_SECONDS = 15


@pytest.mark.slow
def test_a_slow_rank_is_waited_for(
    experiment_of_two: Experiment, launch: Callable[..., Job], tmp_path: Path
) -> None:
    """Stopped for less than the timeout: nothing else happens."""
    run = tmp_path / "run"
    job = launch(experiment_of_two, run, world=2)
    workers = job.fresh_workers(2)
    job.wait_until(lambda: job.steps_logged() >= 5)
    workers[1].signal(signal.SIGSTOP)
    time.sleep(4)
    logged = job.steps_logged()
    time.sleep(1)
    assert job.steps_logged() == logged  # the other one waits
    workers[1].signal(signal.SIGCONT)
    assert job.end() == 0, job.errors()[-3000:]
    assert_same_run(run, experiment_of_two.whole)


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
def test_a_rank_slower_than_the_timeout_is_replaced(
    experiment_of_two: Experiment, launch: Callable[..., Job], tmp_path: Path, slow: int
) -> None:
    """The other one says so after `training.timeout_seconds`, and the restarted job resumes."""
    experiment = Experiment(
        experiment_of_two.path,
        [*TROUBLED, f"training.timeout_seconds={TIMEOUT_SECONDS}"],
        experiment_of_two.whole,
    )
    run = tmp_path / "run"
    job = launch(experiment, run, world=2, restarts=1)
    workers = job.fresh_workers(2)
    job.wait_until(lambda: job.steps_logged() >= 5)
    workers[slow].signal(signal.SIGSTOP)
    began = time.monotonic()
    job.wait_until(lambda: not workers[1 - slow].alive, 4 * TIMEOUT_SECONDS)
    waited = time.monotonic() - began
    print(f"rank {slow} stopped: the other one gave up after {waited:.1f} s")
    assert TIMEOUT_SECONDS - 5 < waited < TIMEOUT_SECONDS + 10
    message = f"recsys: rank {1 - slow}: another rank is gone, or was silent for"
    assert message in job.errors()
    # torchrun gives a rank 30 s to end before it kills it; a stopped one cannot.
    workers[slow].signal(signal.SIGCONT)
    assert job.end() == 0, job.errors()[-3000:]
    assert_same_run(run, experiment.whole)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_job_told_to_stop_leaves_a_checkpoint(
    experiment: Experiment,
    experiment_of_two: Experiment,
    launch: Callable[..., Job],
    tmp_path: Path,
    world: int,
) -> None:
    """SIGTERM to torchrun, as Slurm and Kubernetes send it before they kill."""
    of_world = experiment if world == 1 else experiment_of_two
    run = tmp_path / "run"
    job = launch(of_world, run, world=world)
    job.wait_until(lambda: job.steps_logged() >= 6)
    job.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert job.end(60) != 0
    print(f"world {world}: ended {time.monotonic() - began:.1f} s after SIGTERM")
    step = state_of(newest(run))["step"]
    assert step == job.steps_logged()
    assert f"recsys: stopped by SIGTERM at step {step}; a checkpoint is saved" in job.errors()
    again = launch(of_world, run, world=world)
    assert again.end() == 0, again.errors()[-3000:]
    assert_same_run(run, of_world.whole)

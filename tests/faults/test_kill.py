"""kill -9 of a rank at random moments, and in the middle of checkpoints.

torchrun starts the ranks again, they resume, and the run ends bit for bit as one that nothing
befell. Seeds are logged: `pytest -s` shows each kill.
"""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Experiment
from tests.faults.jobs import Job, Worker, steps_of
from tests.training.runs import assert_same_run

START_SECONDS = 5.0  # about what an attempt takes to its first step
STEP_SECONDS = 0.05


def kill(worker: Worker, job: Job, left: set[tuple[str, int]]) -> bool:
    """Kills a rank; whether it died inside the writing of a checkpoint.

    It did if a folder beside a checkpoint's name is there when it is dead, and was not `left` by an
    earlier attempt: what is complete has been renamed, and nothing else takes it away before the
    next attempt resumes.
    """
    worker.signal(signal.SIGKILL)
    while worker.alive:
        time.sleep(0.001)
    return bool(job.half_written() - left)


def any_moment(job: Job, chance: random.Random, last: int) -> bool:
    """Waits for some moment of an attempt: while it starts, or up to step `last`.

    By steps and not by seconds, so that it comes before the run's end on a fast machine too.
    """
    logged = job.steps_logged()
    if chance.random() < 0.4:
        until = time.monotonic() + chance.uniform(0.0, START_SECONDS)
        return job.wait_until(lambda: time.monotonic() >= until or job.steps_logged() > logged)
    step = chance.randrange(logged, max(last, logged + 1))
    reached = job.wait_until(lambda: job.steps_logged() >= step)
    time.sleep(chance.uniform(0.0, STEP_SECONDS))
    return reached


def trouble(job: Job, world: int, moments: list[str], seed: int, steps: int) -> dict[str, int]:
    """Kills a random rank at each of `moments`: `any` time, or while a checkpoint is `written`.

    `steps`: of a whole run. The moments are spread over them.
    """
    chance = random.Random(seed)
    counts = {"killed": 0, "inside_a_checkpoint": 0}
    left: set[tuple[str, int]] = set()  # by earlier attempts
    for number, moment in enumerate(moments):
        workers = job.fresh_workers(world)
        if len(workers) < world:
            break  # the run came to its end
        if moment == "any":
            reached = any_moment(job, chance, last=steps * (number + 1) // (len(moments) + 1))
        else:
            # Any of the next few checkpoints, and any time in it.
            step = job.steps_logged() + chance.randrange(1, 9)
            job.wait_until(lambda step=step: job.steps_logged() >= step)
            reached = job.wait_until(lambda left=left: bool(job.half_written() - left))
            time.sleep(chance.uniform(0.0, 0.03))
        if not reached:
            break
        victim = chance.choice(workers)
        logged = job.steps_logged()
        inside = kill(victim, job, left)
        left = job.half_written()
        counts["killed"] += 1
        counts["inside_a_checkpoint"] += inside
        print(
            f"seed {seed}: kill {number + 1} ({moment}) of rank {victim.rank} after {logged} "
            f"logged steps{', inside a checkpoint' if inside else ''}"
        )
    return counts


def killed_run(
    experiment: Experiment,
    launch: Callable[..., Job],
    run: Path,
    world: int,
    moments: list[str],
    seed: int,
) -> dict[str, int]:
    job = launch(experiment, run, world=world, restarts=len(moments) + 1)
    counts = trouble(job, world, moments, seed, steps_of(experiment.whole))
    assert job.end(240) == 0, job.errors()[-3000:]
    assert_same_run(run, experiment.whole)
    assert not job.half_written()
    print(f"world {world}, seed {seed}: {counts}")
    return counts


def test_a_rank_killed_in_a_checkpoint(
    experiment: Experiment, launch: Callable[..., Job], tmp_path: Path
) -> None:
    counts = killed_run(experiment, launch, tmp_path / "run", 1, ["written"], seed=1)
    assert counts["killed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_one_rank_killed_at_random_moments(
    experiment: Experiment, launch: Callable[..., Job], tmp_path: Path, seed: int
) -> None:
    moments = ["any", "written", "any", "written", "any"]
    counts = killed_run(experiment, launch, tmp_path / "run", 1, moments, seed)
    assert counts["killed"] == len(moments)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [21, 22])
def test_one_of_two_ranks_killed_at_random_moments(
    experiment_of_two: Experiment, launch: Callable[..., Job], tmp_path: Path, seed: int
) -> None:
    moments = ["any", "written", "any", "written", "any"]
    counts = killed_run(experiment_of_two, launch, tmp_path / "run", 2, moments, seed)
    assert counts["killed"] == len(moments)

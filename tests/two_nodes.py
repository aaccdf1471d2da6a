"""A real Slurm of two nodes on this machine, for tests that submit jobs to it."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm_two_nodes.sh"
# Not in pytest's folder, where the user of munged may not go.
FOLDER = Path("/run/recsys-slurm-tests")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
GRACE_SECONDS = 30  # Slurm's own between SIGTERM and SIGKILL


class TwoNodes:
    """The cluster, by the commands that a user has."""

    environment: ClassVar = {"SLURM_DIR": str(FOLDER), "SLURM_CONF": str(FOLDER / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, …, of the first part of a job."""
        shown = self.run("scontrol", "show", "job", job, "--oneliner").splitlines()[0]
        return shown.partition("JobState=")[2].partition(" ")[0]

    def restarts(self, job: str) -> int:
        shown = self.run("scontrol", "show", "job", job, "--oneliner").splitlines()[0]
        return int(shown.partition("Restarts=")[2].partition(" ")[0])

    def nudge(self) -> None:
        """Has the scheduler look at its queue: it sleeps until something changes, or 5 minutes."""
        self.run("scontrol", "update", "partitionname=debug", "state=up")

    def wait(self, job: str, seconds: float = 180) -> str:
        """The state that a job ends in."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < deadline, f"job {job} is {state} after {seconds} s"
            self.nudge()
            time.sleep(1)
        return state


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """The cluster, up; skips the test where it cannot be."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not found: {', '.join(missing)}; apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a Slurm of one's own needs root")
    cluster = TwoNodes()
    # Its ports are fixed: test processes take turns.
    with Path("/run/recsys-slurm-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster.run(str(SCRIPT), "down")
        cluster.run(str(SCRIPT), "up")
        try:
            yield cluster
        finally:
            cluster.run(str(SCRIPT), "down")

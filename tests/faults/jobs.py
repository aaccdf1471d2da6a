"""Training jobs as a user starts them, under torchrun, and what befalls them from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Worker:
    """One rank's process."""

    pid: int
    rank: int

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def alive(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


@dataclass
class Job:
    """`torchrun … recsys train … --resume`, with its ranks as children."""

    process: subprocess.Popen[str]
    run: Path
    output: Path
    seen: set[int] = field(default_factory=set)  # workers of earlier attempts

    def workers(self) -> list[Worker]:
        """The ranks that are alive, in order."""
        found = []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(FileNotFoundError, ProcessLookupError):
            for pid in map(int, children.read_text().split()):
                with suppress(OSError, KeyError):
                    text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
                    environment = dict(e.split("=", 1) for e in text.split("\0") if "=" in e)
                    found.append(Worker(pid, int(environment["RANK"])))
        return sorted((w for w in found if w.alive), key=lambda worker: worker.rank)

    def fresh_workers(self, world: int, seconds: float = 120) -> list[Worker]:
        """The ranks of the next attempt, once all of them are there."""
        found: list[Worker] = []

        def complete() -> bool:
            found[:] = [w for w in self.workers() if w.pid not in self.seen]
            return len(found) == world

        self.wait_until(complete, seconds)
        self.seen |= {worker.pid for worker in found}
        return found

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120) -> bool:
        """Waits for a condition; False if the job ends before. Fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"after {seconds} s:\n{self.errors()[-3000:]}"
            time.sleep(POLL_SECONDS)
        return True

    def steps_logged(self) -> int:
        """Training steps in metrics.jsonl."""
        return steps_of(self.run)

    def half_written(self) -> set[tuple[str, int]]:
        """Checkpoints that are being written, or were when their writer died: name and inode."""
        found = set()
        for folder in (self.run / "checkpoints").glob(".step-*.tmp"):
            with suppress(FileNotFoundError):
                found.add((folder.name, folder.stat().st_ino))
        return found

    def end(self, seconds: float = 180) -> int:
        """Waits for the job's end and returns its exit code; fails if it hangs."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs for {seconds} s:\n{self.errors()[-3000:]}") from None

    def errors(self) -> str:
        """What all ranks and torchrun wrote to stderr."""
        return self.output.read_text(errors="replace")

    def close(self) -> None:
        """Ends whatever is left."""
        for worker in self.workers():
            worker.signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def steps_of(run: Path) -> int:
    """Training steps in a run's metrics.jsonl."""
    log = run / "metrics.jsonl"
    return log.read_text().count('"train"') if log.exists() else 0


def start(
    config: Path, overrides: list[str], run: Path, *, world: int = 1, restarts: int = 0
) -> Job:
    """Starts a job that begins or resumes `run`."""
    sets = [part for override in overrides for part in ("--set", override)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", str(world), "--max-restarts", str(restarts)]
    torchrun += ["--monitor-interval", "0.2", "-m", "--"]
    command = ["recsys.cli", "train", str(config), "--run", str(run), "--resume", "--json", *sets]
    output = run.with_name(f"{run.name}.stderr")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with output.open("a") as errors:
        process = subprocess.Popen(
            [*torchrun, *command],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            env=environment,
        )
    return Job(process, run, output)

"""Starts TorchX as a user does, and waits for what a job leaves."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.training.conftest import SMALL
from tests.training.runs import assert_same_tensors, lines_of, newest, state_of

# A step takes milliseconds, and a checkpoint is written every other one. Without decay, more epochs
# begin with the same steps.
OVERRIDES = (
    *SMALL,
    "training.epochs=2",
    "training.dense.decay=none",
    "training.checkpoint.every_steps=2",
)
LOCAL = ["-s", "local_cwd"]
BIN = Path(sys.executable).parent


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """That of this process, with the project's commands on PATH, as an activated .venv has them."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **(more or {})}


def train_command(scheduler: list[str], logs: Path, run: Path, *more: str) -> list[str]:
    """`torchx run … recsys.train`; `more` are options of the component and overrides, in order."""
    config = ["--config", str(logs / "config.yaml"), "--run", str(run)]
    env = ["--env", "GLOO_SOCKET_IFNAME=lo"]
    return ["torchx", "run", *scheduler, "recsys.train", *config, *env, *more]


def start(command: list[str], folder: Path, output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=file, stderr=subprocess.STDOUT
        )


def wait_for(
    condition: Callable[[], object], seconds: float, what: str, alive: Callable[[], bool]
) -> None:
    """Polls; raises `AssertionError` when time is up or the job has ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive(), f"the job ended before {what}"
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    folder = run / "checkpoints"
    if not folder.is_dir() or not list(folder.glob("step-*")):
        return 0
    return int(state_of(newest(run))["step"])


def ranks_of(run: Path) -> list[int]:
    """The process ids of the ranks that train this run, found by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it has just ended
            continue
        # torchrun's own command line has the same words, and its name besides.
        if "recsys.cli" in words and str(run) in words and "--rdzv_id" not in words:
            found.append(int(folder.name))
    return found


def assert_ends_like(run: Path, undisturbed: Path) -> None:
    """The same checkpoint and the same log, bit for bit."""
    assert newest(run).name == newest(undisturbed).name
    assert_same_tensors(newest(run), newest(undisturbed))
    assert lines_of(run) == lines_of(undisturbed)

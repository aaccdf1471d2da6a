"""Measures plans by training steps in processes of their own, one for each rank."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recsys.config import Config, dump_config
from recsys.errors import RunError, UserError
from recsys.files import write_json, write_text
from recsys.sharding.document import PlanDocument
from recsys.sharding.topology import Cluster

# Of a torchrun that this process may itself be in: the ranks that it starts are not part of it.
OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        rounds: times that each plan is measured, by turns.
        steps: timed steps of one measurement.
        warmup: steps before them.
    """

    rounds: int
    steps: int
    warmup: int = 3


def check_at_hand(cluster: Cluster) -> None:
    """Raises `UserError` if this machine does not have the cluster's ranks."""
    if cluster.nodes > 1:
        raise UserError(
            f"--tune measures on this machine, but {cluster.label} has {cluster.nodes} hosts; "
            "give a topology of one"
        )
    import torch

    has = torch.cuda.device_count()
    if cluster.device.compute == "cuda" and has < cluster.ranks:
        raise UserError(
            f"--tune measures on this machine: {cluster.label} needs {cluster.ranks} GPUs, it has "
            f"{has}; give a topology that it has, for example 1x2xcpu"
        )
    if cluster.device.compute == "cpu" and has:
        raise UserError(
            f"--tune measures on this machine's GPUs, but {cluster.label} is of CPUs; give a "
            "topology of GPUs, or hide them by CUDA_VISIBLE_DEVICES="
        )


def measure(
    config: Config, plans: list[PlanDocument], world: int, effort: Effort
) -> list[list[float]]:
    """Seconds a step, `[plans][rounds]`: the median of the steps of one measurement.

    Every round measures every plan once, in an order of its own, with the same batches. Raises
    `RunError` with what the ranks said if they fail.
    """
    with TemporaryDirectory(prefix="recsys-tune-") as name:
        folder = Path(name)
        write_text(folder / "config.yaml", dump_config(config))
        request: dict[str, Any] = {**asdict(effort), "plans": [plan.dump() for plan in plans]}
        write_json(folder / "request.json", request)
        code, stderr = _torchrun(world, "recsys.training.time_plans", name)
        answer = folder / "answer.json"
        if code or not answer.is_file():
            raise RunError(f"--tune: the measured ranks failed: {_reason(stderr)}")
        seconds: list[list[float]] = json.loads(answer.read_text(encoding="utf-8"))["seconds"]
        return seconds


def _torchrun(world: int, *module: str) -> tuple[int, str]:
    """Runs a module as `world` ranks; its exit code and what it wrote to stderr."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(world), "-m", *module),
        ],
        env={key: value for key, value in os.environ.items() if key not in OF_A_RANK},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as ranks:
        try:
            with _terminated_as_interrupted():
                _, stderr = ranks.communicate()
        except BaseException:
            ranks.terminate()  # torchrun then ends its ranks; killed, it would leave them
            raise
    return ranks.returncode, stderr


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM in this block is like Ctrl-C: what was started is ended first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread alone
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(stderr: str) -> str:
    """The line in which recsys says what is wrong, or the last lines there are."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    own = next((line for line in lines if line.startswith("recsys: ")), None)
    errors = [line for line in lines if "Error" in line]
    return own.removeprefix("recsys: ") if own else " | ".join((errors or lines)[-3:])

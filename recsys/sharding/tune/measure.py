"""Measures plans by training steps in processes of their own, one for each rank."""

import json
import signal
import subprocess
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
from recsys.processes import environment, python, reason
from recsys.sharding.document import PlanDocument
from recsys.sharding.topology import Cluster


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
    from recsys.gpus import usable_gpus

    has = usable_gpus()
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
            raise RunError(f"--tune: the measured ranks failed: {reason(stderr)}")
        seconds: list[list[float]] = json.loads(answer.read_text(encoding="utf-8"))["seconds"]
        return seconds


def _torchrun(world: int, *module: str) -> tuple[int, str]:
    """Runs a module as `world` ranks; its exit code and what it wrote to stderr."""
    with subprocess.Popen(
        python(*module, ranks=world, torchrun=True),
        env=environment(),
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

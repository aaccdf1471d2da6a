"""Checkpoints of a run: complete or invisible, and without trusting a pickle blindly.

    checkpoints/step-0000001200/   DCP files, state.json, complete.json (checksums)
    checkpoints/best.json          which step validated best

A checkpoint is written beside its name and renamed once `complete.json` holds the SHA-256 of every
file. DCP's own `.metadata` is a pickle: it is opened only after the checksums held, and only from a
run directory. Everything that is not a tensor is in `state.json`.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException

from recsys.errors import UserError
from recsys.files import write_json
from recsys.training.ranks import Ranks

COMPLETE = "complete.json"
STATE = "state.json"
BEST = "best.json"

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run is: everything about it that is not a tensor."""

    step: int = 0
    epoch: int = 0
    # What is left of the epoch: one list of [start, stop] a rank; None at the start of one.
    remaining: list[Any] | None = None
    candidates: int = 0  # trained on so far, all ranks
    best_value: float | None = None
    best_step: int | None = None
    epochs_without_better: int = 0
    # What a resumed run is compared with.
    world: int = 1
    threads: int = 1
    plan: dict[str, Any] = field(default_factory=dict)


def step_name(step: int) -> str:
    return f"step-{step:010d}"


def save(folder: Path, tensors: dict[str, Any], progress: Progress, ranks: Ranks) -> Path:
    """Writes one checkpoint (collective) and returns its folder; replaces one of the same step.

    Raises `UserError` if it cannot be written; what was there before stays.
    """
    target = folder / step_name(progress.step)
    beside = folder / f".{target.name}.tmp"
    try:
        if ranks.first:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        ranks.barrier()
        dcp.save(tensors, checkpoint_id=str(beside), no_dist=ranks.world == 1)
        if ranks.first:
            write_json(beside / STATE, asdict(progress))
            write_json(beside / COMPLETE, {"sha256": checksums(beside)})
            _replace(beside, target)
    except (OSError, CheckpointException) as error:
        cause = _cause(error)
        if ranks.first:
            shutil.rmtree(beside, ignore_errors=True)
        raise UserError(
            f"{target}: cannot write the checkpoint ({getattr(cause, 'strerror', None) or cause}); "
            "free some space and go on with --resume"
        ) from cause
    ranks.barrier()
    return target


def _replace(new: Path, target: Path) -> None:
    """Renames a folder to `target`, where an older one may be: a folder takes no other's place."""
    older = target.with_name(f".{target.name}.old")
    shutil.rmtree(older, ignore_errors=True)
    if target.exists():
        target.rename(older)
    new.rename(target)
    shutil.rmtree(older, ignore_errors=True)


def _cause(error: BaseException) -> BaseException:
    """What DCP met: it wraps the exception of each rank, with its traceback, in one of its own."""
    if isinstance(error, CheckpointException) and error.failures:
        return next(iter(error.failures.values()))[0]
    return error


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint but `complete.json`."""
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name != COMPLETE:
            with file.open("rb") as opened:
                found[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def is_complete(checkpoint: Path) -> bool:
    """Whether the marker is there and every checksum holds."""
    try:
        marker = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return bool(marker["sha256"] == checksums(checkpoint))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, complete or not."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose checksums hold; warns of each that is passed over."""
    for checkpoint in reversed(steps(folder)):
        if is_complete(checkpoint):
            return checkpoint
        log.warning("%s is incomplete or damaged: using the checkpoint before it", checkpoint)
    return None


def best(folder: Path) -> Path | None:
    """The checkpoint that validated best, or the newest if there was no validation yet."""
    try:
        name = json.loads((folder / BEST).read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError):
        return latest(folder)
    if is_complete(folder / name):
        return folder / name
    log.warning("%s is incomplete or damaged: using the newest one that is not", folder / name)
    return latest(folder)


def mark_best(folder: Path, step: int, monitor: str, value: float) -> None:
    """Records the best step so far."""
    write_json(folder / BEST, {"checkpoint": step_name(step), "step": step, monitor: value})


def read_progress(checkpoint: Path) -> Progress:
    """The `state.json` of a complete checkpoint."""
    return Progress(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))


def load(checkpoint: Path, tensors: dict[str, Any], *, alone: bool) -> None:
    """Fills `tensors` in place from a complete checkpoint.

    With `alone` no process group is needed, and sharded tables are read into whole tensors.
    Raises `UserError` if the checkpoint does not have one of them in this shape.
    """
    try:
        dcp.load(tensors, checkpoint_id=str(checkpoint), no_dist=alone)
    except (RuntimeError, ValueError, KeyError, CheckpointException) as error:
        cause = _cause(error)
        reason = " ".join(str(cause).split())[:300]
        raise UserError(f"{checkpoint}: does not fit this configuration: {reason}") from cause


def prune(folder: Path, keep: int, best_step: int | None, step: int) -> None:
    """Deletes the checkpoints up to `step` but the newest `keep` and the best.

    Later ones are damaged, or the run would have gone on from them: they do not count.
    """
    reached = [checkpoint for checkpoint in steps(folder) if checkpoint.name <= step_name(step)]
    for checkpoint in reached[:-keep]:
        if best_step is None or checkpoint.name != step_name(best_step):
            shutil.rmtree(checkpoint)


def random_state(ranks: Ranks) -> dict[str, Tensor]:
    """The random generators of this rank, for dropout."""
    found = {f"rng.{ranks.world}.{ranks.rank}.cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        found[f"rng.{ranks.world}.{ranks.rank}.cuda"] = torch.cuda.get_rng_state(ranks.device)
    return found


def set_random_state(state: dict[str, Tensor], ranks: Ranks) -> None:
    """Puts back what `random_state` returned."""
    for name, value in state.items():
        if name.endswith("cuda"):
            torch.cuda.set_rng_state(value, ranks.device)
        else:
            torch.set_rng_state(value)

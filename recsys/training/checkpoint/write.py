"""Writing checkpoints, in the background if told to."""

import shutil
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed._state_dict_utils import _copy_state_dict, _create_cpu_state_dict
from torch.distributed.checkpoint import CheckpointException

from recsys.errors import UserError
from recsys.files import write_json
from recsys.training.checkpoint import folder as places
from recsys.training.checkpoint.progress import Progress
from recsys.training.checkpoint.read import cause_of
from recsys.training.ranks import Ranks

Result = TypeVar("Result")


@dataclass
class Cost:
    """What the checkpoints of this process cost so far."""

    count: int = 0
    bytes: int = 0  # of all ranks' files
    waited_seconds: float = 0.0  # by training: for copies and for checkpoints before
    writing_seconds: float = 0.0  # from the first byte to the rename


class Writer:
    """Writes the checkpoints of a run, one at a time (every method is collective).

    In the background, `save` copies the tensors to host memory and returns; a thread writes them,
    computes the checksums of this rank's files and lets the first rank rename the folder. The copy
    stays allocated for the next time: it takes as much memory as the tensors. The thread talks to
    the other ranks over a process group of its own, so that its messages never meet training's.

    Args:
        folder: `checkpoints/` of the run.
        ranks: of the job.
        keep: latest checkpoints kept, besides the best.
        background: write while training goes on.
        timeout_seconds: longest wait for another rank.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, keep: int, *, background: bool, timeout_seconds: int = 600
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self.keep = keep
        self.background = background
        self.cost = Cost()
        self._group: dist.ProcessGroup | None = None
        if ranks.world > 1:
            timeout = timedelta(seconds=timeout_seconds)
            self._group = dist.new_group(backend="gloo", timeout=timeout)
        self._copy: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, tensors: dict[str, Any], progress: Progress, *, wait: bool = False) -> Path:
        """Writes one checkpoint and returns its folder; replaces one of the same step.

        First waits for the one before. With `wait` the new one is there when this returns, too.
        Raises `UserError` if a checkpoint cannot be written; what was there before stays.
        """
        self.wait()
        began = time.perf_counter()
        progress = deepcopy(progress)
        target = self.folder / places.step_name(progress.step)
        if wait or not self.background:
            self._write(target, tensors, progress)
        else:
            tensors = self._staged(tensors)
            self._thread = threading.Thread(
                target=self._in_background,
                args=(target, tensors, progress),
                name="recsys-checkpoint",
                daemon=True,
            )
            self._thread.start()
        self.cost.waited_seconds += time.perf_counter() - began
        return target

    @property
    def failed(self) -> bool:
        """Whether a checkpoint in the background failed; `wait` raises why."""
        return self._error is not None

    def wait(self) -> None:
        """Returns when nothing is being written any more; raises what went wrong."""
        if self._thread is not None:
            began = time.perf_counter()
            self._thread.join()
            self._thread = None
            self.cost.waited_seconds += time.perf_counter() - began
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Lets the checkpoint that is being written come to its end, whatever that is: for a run
        that ends by another error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _staged(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """A copy of all tensors in host memory (page-locked, if they are on a GPU)."""
        if self._copy is None:
            on_gpu = self.ranks.device.type == "cuda"
            self._copy = _create_cpu_state_dict(tensors, pin_memory=on_gpu)
        found = _copy_state_dict(tensors, self._copy, non_blocking=True)
        if self.ranks.device.type == "cuda":
            # The next step changes the tensors.
            torch.cuda.current_stream(self.ranks.device).synchronize()
        return found

    def _in_background(self, target: Path, tensors: dict[str, Any], progress: Progress) -> None:
        try:
            self._write(target, tensors, progress)
        except BaseException as error:
            self._error = error

    def _write(self, target: Path, tensors: dict[str, Any], progress: Progress) -> None:
        """Writes, checks and renames; every rank raises what went wrong on any."""
        began = time.perf_counter()
        place = places.beside(target)

        def begin() -> None:
            if self.ranks.first:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)

        def write() -> None:
            alone = self.ranks.world == 1
            dcp.save(tensors, checkpoint_id=str(place), process_group=self._group, no_dist=alone)

        def check() -> dict[str, str]:
            # Each rank reads what it wrote itself; DCP names files by rank.
            return places.checksums(place.glob(f"__{self.ranks.rank}_*"))

        def publish() -> None:
            if self.ranks.first:
                write_json(place / places.STATE, asdict(progress))
                sums.update(places.checksums([place / ".metadata", place / places.STATE]))
                write_json(place / places.COMPLETE, {"sha256": dict(sorted(sums.items()))})
                size = sum(file.stat().st_size for file in place.iterdir())
                self._publish(target, progress)
                self.cost.bytes += size

        try:
            self._together(begin)
            self._together(write)
            sums = {name: found for part in self._together(check) for name, found in part.items()}
            self._together(publish)
        except _WriteError as fault:
            if self.ranks.first:
                shutil.rmtree(place, ignore_errors=True)
            raise UserError(
                f"{target}: cannot write the checkpoint ({fault}); "
                "free some space and go on with --resume"
            ) from None
        self.cost.count += 1
        self.cost.writing_seconds += time.perf_counter() - began

    def _publish(self, target: Path, progress: Progress) -> None:
        """Makes a whole checkpoint visible; what it supersedes goes after it is there."""
        places.put_in_place(target)
        if progress.best_step == progress.step:
            best = progress.best_step, progress.monitor, progress.best_value
            places.mark_best(self.folder, *best)
        places.prune(self.folder, self.keep, progress.best_step, progress.step)

    def _together(self, work: Callable[[], Result]) -> list[Result]:
        """What `work` returns on each rank. Raises `_WriteError` on all if it fails on any."""
        outcome: tuple[Result | None, str | None]
        try:
            outcome = work(), None
        except (OSError, CheckpointException) as error:
            outcome = None, _reason(error, self.folder)
        outcomes: list[Any] = [outcome]
        if self.ranks.world > 1:
            outcomes = [None] * self.ranks.world
            dist.all_gather_object(outcomes, outcome, group=self._group)
        fault = next((fault for _, fault in outcomes if fault is not None), None)
        if fault is not None:
            raise _WriteError(fault)
        return [result for result, _ in outcomes]


class _WriteError(Exception):
    """Why some rank cannot write."""


def _reason(error: BaseException, folder: Path) -> str:
    """What went wrong, and how much room there is: torch's own words hide that a disk is full."""
    cause = cause_of(error)
    text = getattr(cause, "strerror", None) or " ".join(str(cause).split())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return text
    return f"{text}; {free / 2**20:,.0f} MiB are free"

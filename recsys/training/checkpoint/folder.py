"""The folder of a run's checkpoints: which are whole, which is best, which may go."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from recsys.files import write_json

COMPLETE = "complete.json"
STATE = "state.json"
BEST = "best.json"

log = logging.getLogger(__name__)


def step_name(step: int) -> str:
    return f"step-{step:010d}"


def beside(target: Path) -> Path:
    """Where a checkpoint is written before it takes its name."""
    return target.with_name(f".{target.name}.tmp")


def put_in_place(target: Path) -> None:
    """Gives what lies beside `target` its name, where an older one may be: a folder takes no
    other's place."""
    older = target.with_name(f".{target.name}.old")
    shutil.rmtree(older, ignore_errors=True)
    if target.exists():
        target.rename(older)
    beside(target).rename(target)
    shutil.rmtree(older, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Clears what a killed process left half-written; only while no other one writes."""
    if not folder.is_dir():
        return
    for left in folder.glob(".step-*.old"):
        target = left.with_name(left.name.removeprefix(".").removesuffix(".old"))
        if target.exists():
            shutil.rmtree(left)
        else:  # it was killed between the two renames
            left.rename(target)
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left)
    for left in folder.glob(f".{BEST}.*.tmp"):
        left.unlink()


def checksums(files: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its name."""
    found = {}
    for file in sorted(files):
        with file.open("rb") as opened:
            found[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def files_of(checkpoint: Path) -> list[Path]:
    """Every file of a checkpoint but `complete.json`."""
    return [file for file in checkpoint.iterdir() if file.name != COMPLETE]


def is_complete(checkpoint: Path) -> bool:
    """Whether the marker is there and every checksum holds."""
    try:
        marker = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return bool(marker["sha256"] == checksums(files_of(checkpoint)))
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


def mark_best(
    folder: Path, step: int | None, monitor: str | None = None, value: float | None = None
) -> None:
    """Records the best step so far; None: that there is none."""
    if step is None:
        (folder / BEST).unlink(missing_ok=True)
    else:
        document = {"checkpoint": step_name(step), "step": step, str(monitor): value}
        write_json(folder / BEST, document)


def prune(folder: Path, keep: int, best_step: int | None, step: int) -> None:
    """Deletes the checkpoints up to `step` but the newest `keep` and the best.

    Later ones are damaged, or the run would have gone on from them: they do not count.
    """
    reached = [checkpoint for checkpoint in steps(folder) if checkpoint.name <= step_name(step)]
    for checkpoint in reached[:-keep]:
        if best_step is None or checkpoint.name != step_name(best_step):
            shutil.rmtree(checkpoint)

"""What a run leaves to look at while it goes: metrics.jsonl, TensorBoard, a progress bar."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recsys.errors import UserError
from recsys.files import write_text
from recsys.logs import prefix

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between lines where there is no terminal for a bar


class MetricsLog:
    """Writes one JSON object a line and the same numbers to TensorBoard; only on the first rank.

    A run that goes on from step `after` has lost what it did later: those lines are taken out. With
    `mid_epoch` so is a validation of that very step, which will be done again.
    """

    def __init__(
        self,
        file: Path,
        tensorboard: Path,
        *,
        after: int = 0,
        mid_epoch: bool = False,
        active: bool,
    ) -> None:
        self.active = active
        if not active:
            return
        # TensorBoard's import takes a second that the other ranks need not wait.
        from torch.utils.tensorboard import SummaryWriter

        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            kept = [f"{line}\n" for line in lines if _is_until(line, after, mid_epoch)]
            write_text(file, "".join(kept))
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(tensorboard), purge_step=after + 1 if after else None)

    def write(self, event: str, step: int, record: dict[str, Any]) -> None:
        """Appends `{"event": …, "step": …, **record}`; numbers in nested dicts become scalars.

        Raises `UserError` if the disk is full.
        """
        if not self.active:
            return
        line = {"event": event, "step": step, "time": round(time.time(), 3), **record}
        try:
            self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
            self._file.flush()
            for name, value in _scalars(record, event):
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise UserError(
                f"{self._file.name}: cannot be written ({error.strerror}); free some space and go "
                "on with --resume"
            ) from None

    def close(self) -> None:
        """Closes the files; what they have not taken by now is lost, and said so."""
        if not self.active:
            return
        for file in (self._file, self._board):
            try:
                file.close()
            except OSError as error:
                log.warning("%s: lost its last lines (%s)", self._file.name, error.strerror)


def _is_until(line: str, step: int, mid_epoch: bool) -> bool:
    """Whether a line of the log is of a step up to `step`; one that a crash cut off is not."""
    try:
        found = json.loads(line)
        if mid_epoch and found["event"] == "valid":
            return bool(found["step"] < step)
        return bool(found["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(record: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    found = []
    for key, value in record.items():
        name = f"{prefix}/{key}"
        if isinstance(value, dict):
            found += _scalars(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, float(value)))
    return found


class ProgressBar:
    """Candidates done, candidates/s, loss and time left: a bar on a terminal, else a line now and
    then. Writes to stderr, so that `--json` keeps stdout to itself."""

    def __init__(self, label: str, total: int, *, active: bool) -> None:
        self.active = active
        self._label, self._total = label, total
        self._console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} candidates/s  loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._done = 0
        self._line_at = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        if self.active and self._console.is_terminal:
            self._task = self._bar.add_task(self._label, total=self._total, rate=0.0, loss=0.0)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar.live.is_started:  # or it would print an empty line
            self._bar.stop()

    def advance(self, done: int) -> None:
        """Counts candidates."""
        self._done += done
        if self.active and self._bar.live.is_started:
            self._bar.advance(self._task, done)

    def show(self, rate: float, loss: float) -> None:
        """New numbers to show."""
        if not self.active:
            return
        if self._bar.live.is_started:
            self._bar.update(self._task, rate=rate, loss=loss)
        elif time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            share = self._done / max(1, self._total)
            left = (self._total - self._done) / max(rate, 1e-9)
            self._console.print(
                f"{prefix()}{self._label}: {share:.0%}, {rate:,.0f} candidates/s, loss {loss:.4f}, "
                f"{left:.0f} s left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

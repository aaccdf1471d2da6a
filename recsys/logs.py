"""What the log lines of a process look like: in a job, each says its rank and its step.

recsys train …                    resumed from runs/first/checkpoints/step-0000000120, epoch 1
one of two ranks, in step 41      [rank 1/2, step 41] …
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What these say at INFO is about their own insides; recsys says what a user needs.
QUIET = ("torchrec", "fbgemm_gpu", "torch")

_step: Callable[[], int] | None = None


@contextmanager
def steps_in_logs(step: Callable[[], int]) -> Iterator[None]:
    """Log lines of this block say the step that `step()` returns."""
    global _step  # noqa: PLW0603 - a process trains one model at a time, and loggers are global too
    before, _step = _step, step
    try:
        yield
    finally:
        _step = before


def prefix() -> str:
    """`[rank 1/2, step 41] `: the rank (from 0) where there are several, the step in training."""
    parts = []
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        parts.append(f"rank {os.environ['RANK']}/{os.environ['WORLD_SIZE']}")
    if _step is not None:
        parts.append(f"step {_step()}")
    return f"[{', '.join(parts)}] " if parts else ""


class JobFormatter(logging.Formatter):
    """Puts the prefix before each message, and the level's name if it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{prefix()}{level}{super().format(record)}"


def set_up_logging() -> None:
    """Logs of recsys from INFO, of others from ERROR, to stderr: stdout is for results."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JobFormatter())
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.ERROR)
    # torch sets its own level when it is imported, but leaves those below it alone.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logging.getLogger("recsys").setLevel(logging.INFO)

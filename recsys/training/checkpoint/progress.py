"""Everything of a checkpoint that is not a tensor."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.training.checkpoint.folder import STATE


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    epoch: int = 0
    # What is left of the epoch: one list of [start, stop] a rank; None at the start of one.
    remaining: list[Any] | None = None
    to_validate: bool = False  # the last epoch is trained, but was stopped before it was validated
    candidates: int = 0  # trained on so far, all ranks
    monitor: str | None = None  # the metric that decides which step is the best
    best_value: float | None = None
    best_step: int | None = None
    epochs_without_better: int = 0
    data: dict[str, Any] = field(default_factory=dict)  # split → its fingerprint (`same_data`)
    # What a resumed run is compared with.
    world: int = 1
    threads: int = 1
    plan: dict[str, Any] = field(default_factory=dict)


def read_progress(checkpoint: Path) -> Progress:
    """The `state.json` of a complete checkpoint."""
    return Progress(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))

"""Whole runs in this process, and what they leave."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.errors import RunError
from recsys.training import train as training
from recsys.training.step import Stepper
from recsys.training.stop import StopFlag
from recsys.training.train import train


class StopAtStep(StopFlag):
    """As if Ctrl-C came before step `step` (from 1) of this process: it is read once a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGINT" if self.left <= 0 else None

    def is_set(self) -> bool:
        return False


def train_until(config: Config, path: Path, step: int, *, resume: bool = False) -> None:
    """Trains; is stopped in `step`, which raises `RunError`."""

    @contextmanager
    def stop_signals() -> Iterator[StopFlag]:
        yield StopAtStep(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "stop_signals", stop_signals)
        train(config, path, resume=resume)


Seen = Counter[tuple[float, ...]]


def candidates_of(batch: Batch) -> Seen:
    """The candidates of a batch by their numbers, which are all different in a simulated log."""
    numbers = batch.candidate_numbers, batch.request_numbers[batch.request_index]
    rows = torch.cat([*numbers, batch.surface_index.unsqueeze(1)], dim=1).nan_to_num(-1)
    return Counter(map(tuple, rows.tolist()))


def train_and_see(
    config: Config, path: Path, stop_at: dict[int, int] | None = None, resume: bool = False
) -> tuple[Seen, dict[str, Any] | str]:
    """Trains as this rank. `stop_at` has ranks that are told to stop, and in which step.

    Returns the candidates that this rank trained on, and the run's summary or how it stopped.
    """
    seen: Seen = Counter()
    step = Stepper.step

    def spy(self: Stepper, batch: Batch, *arguments: Any) -> Any:
        seen.update(candidates_of(batch))
        return step(self, batch, *arguments)

    at = (stop_at or {}).get(int(os.environ.get("RANK", "0")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "step", spy)
        try:
            if at is not None:
                train_until(config, path, at, resume=resume)
                raise AssertionError("it was not stopped")
            return seen, train(config, path, resume=resume)
        except RunError as error:
            return seen, str(error)


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, whole, by its name."""
    metadata = dcp.FileSystemReader(str(checkpoint)).read_metadata().state_dict_metadata
    found = {
        name: torch.zeros(each.size, dtype=each.properties.dtype)
        for name, each in metadata.items()
        if hasattr(each, "size")
    }
    dcp.load(found, checkpoint_id=str(checkpoint), no_dist=True)
    return found


def assert_same_tensors(first: Path, second: Path) -> None:
    """Bit for bit."""
    expected, found = tensors_of(first), tensors_of(second)
    assert expected.keys() == found.keys()
    assert any(name.startswith("sparse.") for name in expected)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def lines_of(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """metrics.jsonl, without what differs between two equal runs: times and rates."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("time") > 0
        line.pop("candidates_per_second", None)
    return [line for line in lines if event in (None, line["event"])]


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def state_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "state.json").read_text())


def assert_same_run(run: Path, whole: Path) -> None:
    """All tensors, all progress and all metrics, bit for bit."""
    assert newest(run).name == newest(whole).name
    assert_same_tensors(newest(run), newest(whole))
    assert state_of(newest(run)) == state_of(newest(whole))
    assert lines_of(run) == lines_of(whole)
    best = "checkpoints/best.json"
    assert (run / best).read_text() == (whole / best).read_text()

"""What the tests of training share: two ranks, and simulated logs."""

from pathlib import Path

import pytest

from recsys.config import Config, load_config
from recsys.data.recipes.simulate import SimulateOptions, simulate

# A model small enough that a step takes milliseconds. Every step is logged, so that the log of a
# resumed run can be compared line by line.
SMALL = (
    "model.sequence.dim=8",
    "model.sequence.heads=2",
    "model.sequence.feedforward=8",
    "model.projection.width=16",
    "model.projection.sequence=4",
    "model.crossing.rank=4",
    "model.experts.hidden=[8]",
    "training.batch_candidates=128",
    "training.log_every_steps=1",
    "training.threads=1",
    "training.dense.warmup_steps=2",
    "training.epochs=1",
    "training.timeout_seconds=60",
)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated log of three surfaces: its folder."""
    folder = tmp_path_factory.mktemp("simulated") / "logs"
    # Several row groups, so that an epoch is more than one window.
    simulate(folder, SimulateOptions(requests=400, users=20, candidates=4, row_group_requests=32))
    return folder


@pytest.fixture(scope="session")
def small(logs: Path) -> Config:
    """A small experiment on `logs`."""
    return load_config(logs / "config.yaml", SMALL)

"""A small trained run, and two systems' predictions."""

from pathlib import Path

import pytest

from recsys.config import load_config
from recsys.run_directory import RunDirectory
from recsys.training.train import train
from tests.report.tables import predictions, write
from tests.training.conftest import SMALL


@pytest.fixture(scope="session")
def trained(simulated_log: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run without predictions. Not to be changed."""
    path = tmp_path_factory.mktemp("report") / "run"
    train(load_config(simulated_log / "config.yaml", [*SMALL, "training.epochs=2"]), path)
    return RunDirectory.open(path)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two systems on the same rows; the second is worse."""
    folder = tmp_path_factory.mktemp("tables")
    return (
        write(folder / "good", predictions()),
        write(folder / "worse", predictions(noise=1.0)),
    )

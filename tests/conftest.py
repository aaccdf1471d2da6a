"""What all tests may use."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.small_disk import SmallDisk, mounted

if TYPE_CHECKING:
    from recsys.export.artefact import Artefact
    from recsys.run_directory import RunDirectory
    from tests.two_ranks import TwoRanks

# Tests run on busy machines: how long an example takes says nothing about the code.
settings.register_profile("recsys", deadline=None)
settings.load_profile("recsys")


@pytest.fixture(scope="session")
def two_ranks() -> "Iterator[TwoRanks]":
    """Two processes that run what they are given as ranks 0 and 1."""
    from tests.two_ranks import TwoRanks

    ranks = TwoRanks()
    yield ranks
    ranks.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    yield from mounted(tmp_path / "disk")


@pytest.fixture(scope="session")
def simulated_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated log of three surfaces: its folder, with config.yaml. Not to be changed."""
    from recsys.data.recipes.simulate import SimulateOptions, simulate

    folder = tmp_path_factory.mktemp("simulated_log") / "log"
    simulate(folder, SimulateOptions(requests=600, users=30, candidates=4))
    return folder


@pytest.fixture(scope="session")
def exported_run(simulated_log: Path, tmp_path_factory: pytest.TempPathFactory) -> "RunDirectory":
    """A trained run of three surfaces. Not to be changed."""
    from recsys.config import load_config
    from recsys.run_directory import RunDirectory
    from recsys.training.train import train
    from tests.training.conftest import SMALL

    path = tmp_path_factory.mktemp("export") / "run"
    train(load_config(simulated_log / "config.yaml", SMALL), path)
    return RunDirectory(path)


@pytest.fixture(scope="session")
def exports(
    exported_run: "RunDirectory", tmp_path_factory: pytest.TempPathFactory
) -> "dict[str, Artefact]":
    """Surface → its fp32 export of that run. Not to be changed."""
    from recsys.export.artefact import Artefact
    from recsys.export.export import export

    # torch.export tells of every symbol that it makes, and pytest would keep all of it.
    logging.disable(logging.DEBUG)
    out = tmp_path_factory.mktemp("exports")
    return {
        name: Artefact(export(exported_run, name, out).path)
        for name in exported_run.config.surfaces
    }

"""A small run of three surfaces and its exports."""

import logging
from pathlib import Path

import pytest

from recsys.config import load_config
from recsys.export.artefact import Artefact
from recsys.export.export import export
from recsys.run_directory import RunDirectory
from recsys.training.train import train
from tests.training.conftest import SMALL

# torch.export tells of every symbol that it makes, and pytest would keep all of it.
logging.disable(logging.DEBUG)


@pytest.fixture(scope="session")
def run(simulated_log: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained run. Not to be changed."""
    path = tmp_path_factory.mktemp("export") / "run"
    train(load_config(simulated_log / "config.yaml", SMALL), path)
    return RunDirectory(path)


@pytest.fixture(scope="session")
def exports(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    """Surface → its fp32 export. Not to be changed."""
    out = tmp_path_factory.mktemp("exports")
    return {name: Artefact(export(run, name, out).path) for name in run.config.surfaces}

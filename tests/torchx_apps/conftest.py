"""Logs, and a run on two ranks that nothing disturbed."""

import subprocess
from pathlib import Path

import pytest

from recsys.data.recipes.simulate import SimulateOptions, simulate
from tests.torchx_apps.jobs import LOCAL, OVERRIDES, environment, train_command


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "logs"
    simulate(folder, SimulateOptions(requests=400, users=20, candidates=4, row_group_requests=32))
    return folder


@pytest.fixture(scope="session")
def undisturbed(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on two ranks, and what was on the screen."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = train_command(LOCAL, logs, folder / "run", "-j", "1x2", *OVERRIDES)
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stderr

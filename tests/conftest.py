"""What all tests may use."""

from pathlib import Path

import pytest
from hypothesis import settings

# Tests run on busy machines: how long an example takes says nothing about the code.
settings.register_profile("recsys", deadline=None)
settings.load_profile("recsys")


@pytest.fixture(scope="session")
def simulated_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated log of three surfaces: its folder, with config.yaml. Not to be changed."""
    from recsys.data.recipes.simulate import SimulateOptions, simulate

    folder = tmp_path_factory.mktemp("simulated_log") / "log"
    simulate(folder, SimulateOptions(requests=600, users=30, candidates=4))
    return folder

"""The run whose exports are tested."""

import logging

import pytest

from recsys.run_directory import RunDirectory

# torch.export tells of every symbol that it makes, and pytest would keep all of it.
logging.disable(logging.DEBUG)


@pytest.fixture(scope="session")
def run(exported_run: RunDirectory) -> RunDirectory:
    """A trained run. Not to be changed."""
    return exported_run

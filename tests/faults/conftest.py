"""What the fault suite shares: tiny logs, a model whose checkpoints take a while, a whole run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys.config import Config, load_config
from recsys.data.recipes.simulate import SimulateOptions, simulate
from recsys.training.train import train
from tests.faults.jobs import Job, start
from tests.training.conftest import SMALL
from tests.training.runs import train_and_see
from tests.two_ranks import TwoRanks

# A table large enough that a checkpoint takes a moment, and one every four steps. Dropout, so that
# random numbers must be restored; rates that change, so that each must be that of its own step.
TROUBLED = [
    *SMALL,
    "tables.user.rows=400000",
    "model.experts.dropout=0.1",
    "training.dense.decay=linear",
    "training.epochs=3",
    "training.early_stopping.patience=3",
    "training.checkpoint.every_steps=4",
    "training.timeout_seconds=30",
    # The reader works ahead no further than it must: the logs are small.
    "data.shuffle_row_groups=1",
    "data.prefetch_batches=1",
]


@dataclass
class Experiment:
    """Logs with a configuration, and the run that nothing befell."""

    path: Path
    overrides: list[str]
    whole: Path

    @property
    def config(self) -> Config:
        return load_config(self.path, self.overrides)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "logs"
    options = SimulateOptions(
        requests=600, users=20, candidates=4, row_group_requests=32, file_requests=64
    )
    simulate(folder, options)
    return folder


@pytest.fixture(scope="session")
def experiment(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """One rank, one thread."""
    whole = tmp_path_factory.mktemp("whole") / "run"
    found = Experiment(logs / "config.yaml", TROUBLED, whole)
    train(found.config, whole)
    return found


@pytest.fixture(scope="session")
def experiment_of_two(
    logs: Path, two_ranks: TwoRanks, tmp_path_factory: pytest.TempPathFactory
) -> Experiment:
    """Two ranks, one thread each."""
    whole = tmp_path_factory.mktemp("whole_of_two") / "run"
    found = Experiment(logs / "config.yaml", TROUBLED, whole)
    two_ranks.run(train_and_see, found.config, whole)
    return found


@pytest.fixture
def launch() -> Iterator[Callable[..., Job]]:
    """Starts jobs, and ends what a failed test leaves."""
    jobs: list[Job] = []

    def launched(experiment: Experiment, run: Path, **options: int) -> Job:
        jobs.append(start(experiment.path, experiment.overrides, run, **options))
        return jobs[-1]

    yield launched
    for job in jobs:
        job.close()

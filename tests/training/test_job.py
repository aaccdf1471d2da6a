"""A job that is started again goes on with its run; another job is refused it."""

from pathlib import Path

import pytest

from recsys.config import Config
from recsys.errors import RunError, UserError
from recsys.run_directory import RunDirectory
from recsys.training.job import holds, job_id, take
from recsys.training.train import train
from tests.training.runs import newest, state_of, train_until


def start_job(patch: pytest.MonkeyPatch, job: str | None) -> None:
    """From here this process is one that torchrun started for a job."""
    if job is None:
        patch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    else:
        patch.setenv("TORCHELASTIC_RUN_ID", job)


@pytest.mark.parametrize(
    ("run_id", "cluster", "expected"),
    [
        (None, None, None),
        ("none", None, None),  # torchrun without --rdzv-id and --standalone
        ("none", "c", None),
        ("", None, None),
        ("train-x7", None, "train-x7"),
        ("12", "c", "c/12"),
    ],
)
def test_the_id_of_a_job(
    monkeypatch: pytest.MonkeyPatch, run_id: str | None, cluster: str | None, expected: str | None
) -> None:
    start_job(monkeypatch, run_id)
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    if cluster is not None:
        monkeypatch.setenv("SLURM_CLUSTER_NAME", cluster)
    assert job_id() == expected


def test_processes_without_a_job_hold_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    start_job(monkeypatch, None)
    take(run)
    assert not holds(run)
    start_job(monkeypatch, "a")
    assert not holds(run)
    take(run)
    assert holds(run)


def test_who_may_go_on_with_a_run(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    start_job(monkeypatch, "first")
    with pytest.raises(RunError, match="at step 2;"):
        train_until(small, run, 2)
    # The same job, started again, does not begin anew.
    with pytest.raises(RunError, match="at step 3;"):
        train_until(small, run, 1)
    # Another job, or a person, must say --resume.
    for other in ("second", None):
        start_job(monkeypatch, other)
        with pytest.raises(UserError, match="exists already; give another --run"):
            train(small, run)
    assert state_of(newest(run))["step"] == 3
    start_job(monkeypatch, "second")
    with pytest.raises(RunError, match="at step 4;"):
        train_until(small, run, 1, resume=True)
    # From here the run is the second job's, if the first should still be around.
    start_job(monkeypatch, "first")
    with pytest.raises(UserError, match="exists already"):
        train(small, run)
    start_job(monkeypatch, "second")
    with pytest.raises(RunError, match="at step 5;"):
        train_until(small, run, 1)


def test_another_configuration_is_refused_to_the_same_job_too(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    start_job(monkeypatch, "first")
    with pytest.raises(RunError):
        train_until(small, run, 1)
    section = small.training.model_copy(update={"seed": 99})
    with pytest.raises(UserError, match=r"training\.seed: is 99 here but"):
        train(small.model_copy(update={"training": section}), run)

"""Long work of the first rank alone: two real processes, one of them slow."""

import time
from pathlib import Path
from typing import Any

import pytest

from recsys.config import Config
from recsys.errors import RunError
from recsys.training import first_rank, start
from recsys.training import train as training
from recsys.training.ranks import start_ranks
from tests.training.runs import train_and_see
from tests.two_ranks import TwoRanks

TIMEOUT = 4


def slow(work: Any) -> Any:
    def slowly(*arguments: Any) -> Any:
        time.sleep(1.5 * TIMEOUT)
        return work(*arguments)

    return slowly


def train_slowly(config: Config, run: Path, resume: bool) -> tuple[float, int]:
    """Trains; what the first rank does alone takes longer than the timeout."""
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "fit", slow(start.fit))
        patch.setattr(training.checkpoint, "latest", slow(training.checkpoint.latest))
        _, summary = train_and_see(config, run, resume=resume)
    assert isinstance(summary, dict), summary
    return time.monotonic() - began, summary["epochs"]


def test_a_slow_fit_and_a_slow_check_are_waited_for(
    small: Config, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    for number, resume in enumerate([False, True], start=1):
        changes = {"timeout_seconds": TIMEOUT, "epochs": number}
        section = small.training.model_copy(update=changes)
        config = small.model_copy(update={"training": section})
        for seconds, epochs in two_ranks.run(train_slowly, config, tmp_path / "run", resume):
            assert seconds > 1.5 * TIMEOUT
            assert epochs >= number


def silent_work() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_rank, "BEAT_SECONDS", 0.2)
        try:
            with start_ranks(1) as ranks, ranks.after_first():
                if ranks.first:
                    patch.setattr(first_rank, "BEAT_SECONDS", 60)
                    time.sleep(4)
        except RunError as error:
            return str(error)
    return "nothing"


def test_a_first_rank_without_a_sign_of_life_is_not_waited_for(two_ranks: TwoRanks) -> None:
    first, second = two_ranks.run(silent_work)
    assert first.startswith("rank 0: another rank is gone")
    assert second.startswith("rank 1: rank 0, which works alone, was silent for training.timeout")

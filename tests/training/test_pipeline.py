"""The sparse pipeline on one CPU rank: it finds every collection, and trains the same model."""

import logging
from pathlib import Path

import pytest

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.training.train import train
from tests.training.runs import (
    assert_same_tensors,
    lines_of,
    newest,
    state_of,
    train_and_see,
    train_until,
)
from tests.two_ranks import TwoRanks


def pipelined(config: Config) -> Config:
    section = config.training.model_copy(update={"pipeline": "sparse", "epochs": 2})
    return config.model_copy(update={"training": section})


def plain(config: Config) -> Config:
    section = config.training.model_copy(update={"epochs": 2})
    return config.model_copy(update={"training": section})


def test_it_trains_what_the_plain_loop_trains(
    small: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit, over two epochs with a validation between."""
    train(plain(small), tmp_path / "plain")
    with caplog.at_level(logging.INFO, "recsys"):
        train(pipelined(small), tmp_path / "pipelined")
    collections = len(Layout(small).collections)
    assert collections > 2
    assert f"{collections} of {collections} collections are pipelined" in caplog.text
    assert_same_tensors(newest(tmp_path / "plain"), newest(tmp_path / "pipelined"))
    assert lines_of(tmp_path / "plain") == lines_of(tmp_path / "pipelined")


def test_a_stop_loses_no_batch_that_is_under_way(small: Config, tmp_path: Path) -> None:
    """The end is agreed on two steps ahead; what was read is trained on, and then saved."""
    run = tmp_path / "run"
    everything, _ = train_and_see(plain(small), tmp_path / "whole")
    with pytest.raises(Exception, match="stopped by SIGINT") as stopped:
        train_until(pipelined(small), run, 3)
    assert "at step 3;" in str(stopped.value)
    train(pipelined(small), run, resume=True)
    assert_same_tensors(newest(tmp_path / "whole"), newest(run))
    assert state_of(newest(run))["candidates"] == everything.total()


def test_several_cpu_ranks_are_refused(small: Config, two_ranks: TwoRanks, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"training.pipeline: sparse is impossible on several"):
        two_ranks.run(train, pipelined(small), tmp_path / "run")

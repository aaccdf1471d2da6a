"""The sparse pipeline on one CPU rank: it finds every collection, and trains the same model."""

import logging
from pathlib import Path

import pytest
import torch

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.errors import UserError
from recsys.sharding.plan import plan_tables
from recsys.sharding.topology import parse_topology
from recsys.sharding.workload import assume
from recsys.training.ranks import Ranks
from recsys.training.steps import PIPELINES, choose_steps, plain_steps
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


def pipelined(config: Config, kind: str = "sparse") -> Config:
    section = config.training.model_copy(update={"pipeline": kind, "epochs": 2})
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
    assert (
        f"TrainPipelineSparseDist: {collections} of {collections} collections are pipelined"
        in caplog.text
    )
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


def test_prefetching_on_a_cpu_is_refused(small: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.pipeline: prefetch is impossible on a CPU"):
        train(pipelined(small, "prefetch"), tmp_path / "run")


def test_by_default_the_device_and_the_plan_decide(small: Config) -> None:
    plan = plan_tables(small, parse_topology("1x1xcpu"), assume(small)).document
    on_cpu, on_gpu = Ranks(0, 1, torch.device("cpu")), Ranks(0, 1, torch.device("cuda"))
    assert choose_steps(small, plan, on_cpu) is plain_steps
    assert choose_steps(small, plan, on_gpu).args == (PIPELINES["sparse"],)
    table = next(iter(plan.tables))
    cached = plan.tables[table].model_copy(update={"compute_kernel": "fused_uvm_caching"})
    plan = plan.model_copy(update={"tables": {**plan.tables, table: cached}})
    assert choose_steps(small, plan, on_gpu).args == (PIPELINES["prefetch"],)
    assert choose_steps(small, plan, on_cpu) is plain_steps

"""A checkpoint under another plan and on another number of ranks: two real processes over gloo."""

import logging
import shutil
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.config import Config, load_config
from recsys.data.statistics import Statistics
from recsys.run_directory import RunDirectory
from recsys.training.checkpoint import accumulators, read_progress
from recsys.training.ranks import start_ranks
from recsys.training.train import Trainer, train
from recsys.training.validation import validate
from tests.training.conftest import SMALL
from tests.training.runs import lines_of, newest, state_of, tensors_of, train_and_see
from tests.two_ranks import TwoRanks

# Wide enough that TorchRec divides it into column shards; read by history and candidates.
WIDE = ("tables.item.dim=256", "training.checkpoint.keep=9")
ITEM = "sparse.state.lookup.collections.sequences_256.embeddings.item.weight.item.momentum1"
PLANS = ("table_wise", "row_wise", "column_wise")


def planned(logs: Path, item: str, *more: str) -> Config:
    """The small experiment with the item table under one kind of sharding."""
    constraint = f"sharding.constraints={{item: {{types: [{item}]}}}}"
    return load_config(logs / "config.yaml", [*SMALL, *WIDE, constraint, *more])


def restore(config: Config, run: Path, out: Path) -> dict[str, Any]:
    """Goes on from a run's newest checkpoint, validates at once, and saves it again to `out`."""
    with start_ranks(60, 1) as ranks:
        directory = RunDirectory(run)
        trainer = Trainer(config, directory, Statistics.load(directory.statistics), ranks)
        assert trainer.resume()
        metrics = validate(trainer.model, config, trainer.statistics, ranks)
        trainer.writer.folder = out
        trainer.save(None, wait=True)
        return metrics


def item_state(checkpoint: Path) -> tuple[Tensor, list[accumulators.Piece]]:
    """The accumulators of the item table, and where the shards' are."""
    plan = read_progress(checkpoint).plan["tables"]["item"]
    return tensors_of(checkpoint)[ITEM], accumulators.pieces(plan["shards"])


def by_row(checkpoint: Path) -> Tensor:
    """The accumulators of the item table, one a row whatever the plan."""
    state, old = item_state(checkpoint)
    rows = max(piece.rows[1] for piece in old)
    return accumulators.converted(state, old, accumulators.Piece((0, rows), (0, 256), 0))


def numbers(metrics: Any) -> Iterable[tuple[str, float]]:
    """Every number of nested metrics, by its path."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{path}", found) for path, found in numbers(value))
        elif isinstance(value, int | float):
            yield key, value


def assert_equal_to_six_digits(found: Any, expected: Any) -> None:
    found, expected = dict(numbers(found)), dict(numbers(expected))
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for path, value in expected.items():
        assert f"{found[path]:.6g}" == f"{value:.6g}", path


@pytest.fixture(scope="module")
def saved(logs: Path, tmp_path_factory: pytest.TempPathFactory, two_ranks: TwoRanks) -> dict:
    """A run for each plan on two ranks, stopped at step 3, and one on one rank."""
    folder = tmp_path_factory.mktemp("saved")
    for plan in PLANS:
        two_ranks.run(train_and_see, planned(logs, plan), folder / plan, {0: 3, 1: 3})
    train_and_see(planned(logs, "table_wise"), folder / "alone", {0: 3})
    return {name: folder / name for name in (*PLANS, "alone")}


def shards_of(checkpoint: Path) -> int:
    return len(read_progress(checkpoint).plan["tables"]["item"]["shards"])


QUICK = {("table_wise", "column_wise"), ("column_wise", "row_wise"), ("row_wise", "alone")}
PAIRS = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in product((*PLANS, "alone"), repeat=2)
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_weights_evaluation_and_state_under_another_plan(
    logs: Path,
    saved: dict[str, Path],
    two_ranks: TwoRanks,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: str,
    after: str,
) -> None:
    """From two ranks under any plan, or from one, to two ranks under any plan, or to one."""
    source = newest(saved[before])
    assert shards_of(source) == (1 if before in ("table_wise", "alone") else 2)
    # What the checkpoint's weights score, on a rank of its own under the plan it was made by.
    run = tmp_path / "run"
    shutil.copytree(saved[before], run)
    alone = planned(logs, "table_wise")
    expected = restore(alone, run, tmp_path / "alone")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        if after == "alone":
            found = restore(alone, run, tmp_path / "again")
        else:
            config = planned(logs, after)
            found = two_ranks.run(restore, config, run, tmp_path / "again")[0]
    assert_equal_to_six_digits(found, expected)
    (again,) = (tmp_path / "again").glob("step-*")
    first, second = tensors_of(source), tensors_of(again)
    for name in first:
        if name.startswith(("model.", "dense.")) or (name.startswith("sparse.") and name != ITEM):
            assert torch.equal(first[name], second[name]), name
    if "column_wise" not in (before, after) or before == after:
        assert torch.equal(first[ITEM], second[ITEM])
        assert "optimizer state converted" not in caplog.text
        return
    # A mean over all columns, or the row's number in each shard.
    torch.testing.assert_close(by_row(again), by_row(source), rtol=1e-6, atol=0)
    if after == "column_wise":
        rows = len(first[ITEM])
        assert torch.equal(second[ITEM], torch.cat([first[ITEM], first[ITEM]]))
        assert len(second[ITEM]) == 2 * rows
    if after == "alone":
        assert (
            "tables.item: optimizer state converted from 2 to 1 column shard(s): a shard takes the "
            "mean of the old accumulators, weighted by the columns they share"
        ) in caplog.text


def test_the_rule_is_exact_for_equal_gradients(logs: Path, tmp_path: Path) -> None:
    """Column shards that are put together have what the whole row would have accumulated.

    Rates of nothing keep the weights, and so the gradients, those of the run that was never
    divided.
    """
    still = ("training.sparse.lr=1e-30", "training.dense.lr=1e-30")
    whole = planned(logs, "table_wise", *still)
    train(whole, tmp_path / "whole")
    train_and_see(whole, tmp_path / "run", {0: 3})
    before = by_row(newest(tmp_path / "run"))
    divided = planned(logs, "column_wise", *still)
    train(divided, tmp_path / "run", resume=True)
    state, shards = item_state(newest(tmp_path / "run"))
    assert len(shards) == 2
    first, second = state.view(2, -1)
    assert not torch.equal(first, second)  # each has gone on by itself
    expected = by_row(newest(tmp_path / "whole"))
    assert (expected > before).any()
    torch.testing.assert_close(by_row(newest(tmp_path / "run")), expected, rtol=2e-6, atol=0)


def test_uneven_shards_are_weighted_by_their_columns() -> None:
    def shard(row: int, column: int, rows: int, columns: int) -> dict[str, Any]:
        return {"offsets": [row, column], "sizes": [rows, columns]}

    generator = np.random.default_rng(0)
    squares = torch.from_numpy(generator.random((6, 16)))
    # 2 × 3 shards, listed in no order; widths of 4, 4 and 8 columns.
    cuts, halves = [(0, 4), (4, 8), (8, 16)], [(0, 2), (2, 6)]
    grid = [shard(r, c, s - r, d - c) for r, s in halves[::-1] for c, d in cuts]
    old = accumulators.pieces(grid)
    state = torch.cat([squares[slice(*p.rows), slice(*p.columns)].mean(1) for p in old])
    whole = accumulators.Piece((0, 6), (0, 16), 0)
    torch.testing.assert_close(accumulators.converted(state, old, whole), squares.mean(1))
    part = accumulators.Piece((1, 4), (4, 16), 0)
    torch.testing.assert_close(accumulators.converted(state, old, part), squares[1:4, 4:].mean(1))
    narrow = accumulators.Piece((0, 6), (8, 12), 0)  # a part of a shard: the shard's number
    torch.testing.assert_close(accumulators.converted(state, old, narrow), squares[:, 8:].mean(1))


@pytest.mark.parametrize("after", ["row_wise", "column_wise"])
def test_training_goes_on_as_under_the_old_plan(
    logs: Path, saved: dict[str, Path], two_ranks: TwoRanks, tmp_path: Path, after: str
) -> None:
    """Step by step on the same batches: losses within 1e-5 under row-wise, which computes the same
    in another order, and within 1 % under column-wise, whose shards have rates of their own."""
    for plan in ("table_wise", after):
        shutil.copytree(saved["table_wise"], tmp_path / plan)
        two_ranks.run(train_and_see, planned(logs, plan), tmp_path / plan, None, True)
    expected, found = (lines_of(tmp_path / plan, "train") for plan in ("table_wise", after))
    assert len(expected) > 4
    losses = [(a["loss"], b["loss"]) for a, b in zip(expected, found, strict=True)]
    tolerance = 1e-5 if after == "row_wise" else 1e-2
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=tolerance)
    assert (
        state_of(newest(tmp_path / after))["candidates"]
        == (state_of(newest(tmp_path / "table_wise"))["candidates"])
    )


def test_one_rank_two_ranks_one_rank(logs: Path, two_ranks: TwoRanks, tmp_path: Path) -> None:
    """1 → 2 → 1 with another plan each time: every candidate once, and nearly the same metrics.

    Two ranks take steps of twice the candidates. On eleven steps that is a difference.
    """
    config = planned(logs, "table_wise")
    everything, _ = train_and_see(config, tmp_path / "whole")
    run = tmp_path / "run"
    parts = [train_and_see(config, run, {0: 3})]
    parts += two_ranks.run(train_and_see, planned(logs, "column_wise"), run, {0: 2, 1: 2}, True)
    assert len(state_of(newest(run))["remaining"]) == 2
    parts.append(train_and_see(config, run, resume=True))
    assert sum((seen for seen, _ in parts), start=type(everything)()) == everything
    assert max(everything.values()) == 1  # each is told from all others
    (expected,), (found,) = (lines_of(tmp_path / each, "valid") for each in ("whole", "run"))
    for task, metrics in expected["all"]["tasks"].items():
        close = pytest.approx(metrics["logloss"], rel=0.2)
        assert found["all"]["tasks"][task]["logloss"] == close

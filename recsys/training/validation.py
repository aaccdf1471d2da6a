"""Metrics of a split while training, on the sharded model."""

from collections.abc import Callable
from typing import Any

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.config import Config
from recsys.data.reader import Reader, empty_batch
from recsys.data.statistics import Statistics
from recsys.training.loss import CellLoss
from recsys.training.ranks import Ranks
from recsys.training.same_data import check_same_data
from recsys.training.sharded import unlock_cached_rows, unwrap
from recsys.training.step import Lockstep, precision
from recsys.training.streaming import StreamingMetrics


@torch.no_grad()
def validate(
    model: DistributedModelParallel,
    config: Config,
    statistics: Statistics,
    ranks: Ranks,
    split: str = "valid",
    known_data: dict[str, Any] | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """The metrics of `StreamingMetrics` on a split, the same on all ranks (collective).

    None if some rank was asked to stop: a scheduler that asked will not wait for the whole split.
    `known_data` is what the run knows of its splits: see `check_same_data`.
    """
    cells = CellLoss(config, ranks.device)
    metrics = StreamingMetrics(
        tuple(config.active_surfaces),
        config.tasks,
        cells.exists,
        ranks.device,
        unwrap(model).log_rates,
    )
    model.eval()
    with ranks.together():
        reader = Reader(
            config,
            split,
            statistics,
            rank=ranks.rank,
            world=ranks.world,
            shuffle=False,
            batch_candidates=config.evaluation.batch_candidates,
        )
        if known_data is not None:
            check_same_data(known_data, split, reader.split)
    with reader:
        batches = Lockstep(iter(reader), empty_batch(reader.layout), ranks.device)
        for batch in batches:
            own = [batch.requests, batches.fault is not None, asked_to_stop()]
            requests, faults, stops = ranks.sum(torch.tensor(own, device=ranks.device)).tolist()
            if faults:
                ranks.raise_on_all(batches.fault)
            if not requests or stops:
                break
            with precision(config, ranks.device):
                logits = unwrap(model)(batch)
            metrics.update(logits.corrected, batch.labels, batch.surface_index)
    unlock_cached_rows(model)
    model.train()
    if requests and stops:
        return None
    metrics.reduce(ranks.sum)
    return metrics.compute()


def monitored(metrics: dict[str, Any], monitor: str) -> float | None:
    """The value early stopping looks at: the mean over tasks, all surfaces together."""
    if monitor == "none":
        return None
    values = [task[monitor] for task in metrics["all"]["tasks"].values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def is_better(value: float, best: float | None, monitor: str) -> bool:
    """AUC is to be high, NE and log loss low."""
    if best is None:
        return True
    return value > best if monitor == "auc" else value < best

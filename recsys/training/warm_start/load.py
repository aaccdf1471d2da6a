"""Fills a model from another run's best checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.model.unified import UnifiedModel, build_model
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.checkpoint.read import shapes
from recsys.training.warm_start.labels import INPUT_AXIS, Axis, axes, meaning
from recsys.training.warm_start.rows import match_rows

# Buffers of `NumberTransforms`, which come from the run's statistics.
FITTED = (".mean", ".std", ".log_mean", ".log_std", ".quantiles")


@dataclass(frozen=True)
class Part:
    """What became of one weight or table."""

    name: str
    kind: Literal["table", "dense"]
    loaded: int  # numbers taken from the other run
    size: int  # numbers here; 0 if it is not here
    why: str = ""

    @property
    def status(self) -> str:
        if not self.size:
            return "skipped"
        if not self.loaded:
            return "initialised"
        return "loaded" if self.loaded == self.size else "partly loaded"


def warm_start(
    model: UnifiedModel, tensors: dict[str, Any], statistics: Statistics, source: Path
) -> list[Part]:
    """Copies what matches from the best checkpoint of the run `source`.

    Args:
        model: the one that is to be trained.
        tensors: its state dict; tables may be sharded, this rank fills its shards.
        statistics: of the new run.
        source: the other run's directory.

    Returns what became of each weight and table, the same on all ranks. Each rank reads one table
    at a time, whole. Raises `UserError` if `source` is no run or has no complete checkpoint.
    """
    run = RunDirectory.open(source)
    found = checkpoint.best(run.checkpoints)
    if found is None:
        raise UserError(f"{run.checkpoints}: no complete checkpoint to start from")
    stored = [name.removeprefix("model.") for name in shapes(found) if name.startswith("model.")]
    with torch.device("meta"):
        old = build_model(run.config)
    parts = _tables(model, tensors, statistics, old, run, found)
    return parts + _dense(model, tensors, old, found, stored)


def _table_names(model: UnifiedModel) -> dict[str, str]:
    """Table → its name in a state dict."""
    found = {}
    for table, collection in model.layout.collection_of.items():
        kind = "embeddings" if collection.startswith("sequences") else "embedding_bags"
        found[table] = f"lookup.collections.{collection}.{kind}.{table}.weight"
    return found


def _tables(
    model: UnifiedModel,
    tensors: dict[str, Any],
    statistics: Statistics,
    old: UnifiedModel,
    run: RunDirectory,
    found: Path,
) -> list[Part]:
    before = Statistics.load(run.statistics).vocabularies
    now = statistics.vocabularies
    old_names, names = _table_names(old), _table_names(model)
    parts = [Part(t, "table", 0, 0, "no such table here") for t in old_names if t not in names]
    for table, name in names.items():
        config = model.layout.config.tables[table]
        size = (config.rows + 1) * config.dim
        if table not in old_names:
            parts.append(Part(table, "table", 0, size, "no such table in the other run"))
            continue
        was = old.layout.config.tables[table]
        rows = match_rows(was, config, before.get(table), now.get(table))
        columns = min(was.dim, config.dim)
        if name in tensors:
            weights = checkpoint.whole_tensor(found, f"model.{old_names[table]}")
            for shard, (row, column) in _shards(tensors[name]):
                _fill(shard, row, column, weights, rows.old, rows.new)
        why = [rows.why] if rows.why else []
        if was.dim != config.dim:
            why.append(f"dim was {was.dim} and is {config.dim}")
        parts.append(Part(table, "table", len(rows.new) * columns, size, "; ".join(why)))
    return parts


def _shards(tensor: Tensor | ShardedTensor) -> list[tuple[Tensor, tuple[int, int]]]:
    """This rank's parts of a table with their first row and column."""
    if isinstance(tensor, ShardedTensor):
        return [
            (shard.tensor, (shard.metadata.shard_offsets[0], shard.metadata.shard_offsets[1]))
            for shard in tensor.local_shards()
        ]
    return [(tensor, (0, 0))]


@torch.no_grad()
def _fill(
    shard: Tensor, row: int, column: int, weights: Tensor, old: np.ndarray, new: np.ndarray
) -> None:
    """Copies the matching rows that lie in one shard."""
    columns = min(shard.shape[1], weights.shape[1] - column)
    mine = (new >= row) & (new < row + shard.shape[0])
    if columns <= 0 or not mine.any():
        return
    values = weights[torch.from_numpy(old[mine]), column : column + columns]
    at = torch.from_numpy(new[mine] - row).to(shard.device)
    shard[at, :columns] = values.to(shard.device, shard.dtype)


def _dense(
    model: UnifiedModel, tensors: dict[str, Any], old: UnifiedModel, found: Path, stored: list[str]
) -> list[Part]:
    is_dense = {name for name in stored if not name.startswith("lookup.")}
    state = old.state_dict()
    weights = {
        f"model.{name}": torch.empty(state[name].shape, dtype=state[name].dtype)
        for name in is_dense
    }
    checkpoint.load(found, weights, alone=True)
    before = {meaning(old.layout.config, name): name for name in is_dense}
    labels, old_labels = axes(model), axes(old)
    parts = []
    used = set()
    for name, target in tensors.items():
        if name.startswith("lookup.") or name.endswith(FITTED):
            continue
        source = before.get(meaning(model.layout.config, name))
        if source is None:
            parts.append(Part(name, "dense", 0, target.numel(), "not in the other run"))
            continue
        used.add(source)
        value = weights[f"model.{source}"]
        loaded = _copy(target, value, labels.get(name), old_labels.get(source))
        why = "" if loaded == target.numel() else f"was {_shape(value)} and is {_shape(target)}"
        parts.append(Part(name, "dense", loaded, target.numel(), why))
    left = sorted(n for n in is_dense - used if not n.endswith(FITTED))
    return parts + [Part(name, "dense", 0, 0, "no such weight here") for name in left]


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


@torch.no_grad()
def _copy(
    target: Tensor,
    value: Tensor,
    labels: tuple[Axis, Axis] | None,
    old_labels: tuple[Axis, Axis] | None,
) -> int:
    """Copies the elements that mean the same; the number of them."""
    if labels is None or old_labels is None:
        if target.shape != value.shape:
            return 0
        target.copy_(value)
        return target.numel()
    pairs = []
    for axis, size in enumerate(target.shape):
        pair = _pair(labels[axis], old_labels[axis], size, value.shape[axis])
        if pair is None:
            return 0
        pairs.append(pair)
    if target.dim() > INPUT_AXIS and labels[INPUT_AXIS] is not None and labels[0] is None:
        target.zero_()  # new inputs change nothing before they are trained
    here = torch.meshgrid(*(torch.tensor(new) for new, _ in pairs), indexing="ij")
    there = torch.meshgrid(*(torch.tensor(old) for _, old in pairs), indexing="ij")
    target[here] = value[there].to(target.device, target.dtype)
    return here[0].numel()


def _pair(
    new: Axis, old: Axis, size: int, old_size: int
) -> tuple[Sequence[int], Sequence[int]] | None:
    """Places along one axis that mean the same, here and there; None if that cannot be said."""
    if new is None or old is None:
        return (range(size), range(size)) if size == old_size else None
    places = {label: at for at, label in enumerate(old)}
    both = [(at, places[label]) for at, label in enumerate(new) if label in places]
    if not both:
        return None
    return [at for at, _ in both], [at for _, at in both]

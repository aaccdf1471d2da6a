"""The tables' optimizer state under another division into columns.

Row-wise Adagrad keeps one number a row and column shard, `m = Σ mean(g²)`, the sum over steps and
the mean over the shard's columns. Without column shards (table-wise, row-wise) that is one number a
row, and moves between such plans unchanged. To or from column shards it is converted by one rule:

    m_new = Σ_old m_old · (columns that both have) / (columns of the new shard)

From shards to a whole row that is exactly what the whole row would have accumulated of the same
gradients, because a mean over all columns is the weighted mean of the means over their parts. From
a whole row to shards each shard starts with the row's number: what its columns alone would have
accumulated is not known.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.training.checkpoint.read import whole_tensor

MOMENTUM = ".momentum1"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """One shard of a table, and where its state is in the table's state."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    at: int


def pieces(shards: list[dict[str, Any]]) -> list[Piece]:
    """The shards of a plan (`offsets`, `sizes`) in the order in which TorchRec lays their states
    one behind the other: by columns, then by rows."""
    found, at = [], 0
    for shard in sorted(shards, key=lambda shard: (shard["offsets"][1], shard["offsets"][0])):
        (row, column), (rows, columns) = shard["offsets"], shard["sizes"]
        found.append(Piece((row, row + rows), (column, column + columns), at))
        at += rows
    return found


def converted(state: Tensor, old: list[Piece], new: Piece) -> Tensor:
    """The state of one new shard, `[rows]`, from that of a whole table under the old plan."""
    start, stop = new.rows
    summed = torch.zeros(stop - start, dtype=torch.float64)
    for piece in old:
        first, last = max(start, piece.rows[0]), min(stop, piece.rows[1])
        shared = min(new.columns[1], piece.columns[1]) - max(new.columns[0], piece.columns[0])
        if first < last and shared > 0:
            at = piece.at + first - piece.rows[0]
            summed[first - start : last - start] += state[at : at + last - first] * shared
    return (summed / (new.columns[1] - new.columns[0])).to(state.dtype)


def tables_to_convert(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Tables that two plans (`plan_document`) divide into other columns → (old, new) pieces."""
    found = {}
    for table, after in new.get("tables", {}).items():
        before = old.get("tables", {}).get(table)
        if before is None:
            continue
        pair = pieces(before["shards"]), pieces(after["shards"])
        if {piece.columns for piece in pair[0]} != {piece.columns for piece in pair[1]}:
            found[table] = pair
    return found


def take_out(sparse: dict[str, Any], tables: Mapping[str, Any]) -> dict[str, ShardedTensor]:
    """Removes the states of some tables from a fused optimizer's state dict; returns those that
    this rank has, by their names in a checkpoint."""
    found = {}
    for parameter, state in list(sparse["state"].items()):
        for key in list(state):
            if key.endswith(MOMENTUM) and key.removesuffix(MOMENTUM) in tables:
                found[f"sparse.state.{parameter}.{key}"] = state.pop(key)
        if not state:  # DCP would look for it in the checkpoint
            del sparse["state"][parameter]
    return found


def convert(
    checkpoint: Path, states: Mapping[str, ShardedTensor], tables: Mapping[str, tuple[Any, Any]]
) -> None:
    """Fills the states that `take_out` returned, in place, from a checkpoint of another plan.

    Reads the states of one table at a time, whole, on each rank that holds a part of it.
    """
    for name, state in states.items():
        old, new = tables[name.removesuffix(MOMENTUM).rsplit(".", 1)[1]]
        saved = whole_tensor(checkpoint, name)
        by_place = {piece.at: piece for piece in new}
        for shard in state.local_shards():
            piece = by_place[shard.metadata.shard_offsets[0]]
            shard.tensor.copy_(converted(saved, old, piece))


def log_rule(tables: Mapping[str, tuple[list[Piece], list[Piece]]]) -> None:
    """Says which tables' states are converted, and how."""
    for table, (old, new) in tables.items():
        counts = [len({piece.columns for piece in each}) for each in (old, new)]
        log.warning(
            "tables.%s: optimizer state converted from %d to %d column shard(s): a shard takes the "
            "mean of the old accumulators, weighted by the columns they share",
            table,
            *counts,
        )

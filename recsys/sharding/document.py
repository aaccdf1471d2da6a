"""A sharding plan as JSON, and back: `plan.json`.

{"world": 2, "ranks_per_node": 2, "device": "cpu", "constraints": {…},
 "tables": {"video": {"sharding_type": "row_wise", "compute_kernel": "fused", "ranks": [0, 1],
                      "cache_load_factor": null,
                      "shards": [{"rank": 0, "offsets": [0, 0], "sizes": [51, 8]}, …]}}}
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import nn
from torch.distributed._shard.sharding_spec import EnumerableShardingSpec, ShardMetadata
from torchrec.distributed.planner.types import ShardingOption
from torchrec.distributed.planner.utils import placement
from torchrec.distributed.sharding_plan import calculate_shard_sizes_and_offsets
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    ParameterSharding,
    ShardingPlan,
)

from recsys.config import Config
from recsys.config.experiment import nearest
from recsys.config.section import Section
from recsys.data.layout import Layout
from recsys.errors import UserError
from recsys.model.lookup import table_rows
from recsys.sharding.constraints import cache_params, possible, sharders, show_possible

HOST_TYPES = ("table_row_wise", "grid_shard")  # exchanged among the ranks of a host


class ShardDocument(Section):
    """A rectangle of a table and the rank that holds it: [rows, columns]."""

    rank: int = Field(ge=0)
    offsets: tuple[int, int]
    sizes: tuple[int, int]


class TableDocument(Section):
    """How one table is sharded."""

    sharding_type: str
    compute_kernel: str
    ranks: tuple[int, ...]
    cache_load_factor: float | None = Field(None, gt=0, lt=1)
    shards: tuple[ShardDocument, ...] = Field(min_length=1)


class PlanDocument(Section):
    """A plan, with what it was made for."""

    world: int = Field(ge=1)
    ranks_per_node: int = Field(ge=1)
    device: str
    constraints: dict[str, Any] = Field(default_factory=dict)
    tables: dict[str, TableDocument]

    def kinds(self) -> str:
        """How many tables are sharded how: `17 table_wise, 3 row_wise`."""
        counts = Counter(
            table.sharding_type
            + ("" if table.compute_kernel == "fused" else f" ({table.compute_kernel})")
            for table in self.tables.values()
        )
        return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")


def document_of(
    options: list[ShardingOption], config: Config, world: int, ranks_per_node: int, device: str
) -> PlanDocument:
    """The document of what TorchRec's planner chose."""
    tables = {}
    for option in sorted(options, key=lambda option: list(config.tables).index(option.name)):
        shards = tuple(
            ShardDocument(rank=int(s.rank or 0), offsets=tuple(s.offset), sizes=tuple(s.size))
            for s in option.shards
        )
        tables[option.name] = TableDocument(
            sharding_type=option.sharding_type,
            compute_kernel=option.compute_kernel,
            ranks=tuple(shard.rank for shard in shards),
            cache_load_factor=option.cache_load_factor
            if option.compute_kernel == "fused_uvm_caching"
            else None,
            shards=shards,
        )
    return PlanDocument(
        world=world,
        ranks_per_node=ranks_per_node,
        device=device,
        constraints=constraints_of(config),
        tables=tables,
    )


def constraints_of(config: Config) -> dict[str, Any]:
    """The part of a configuration that a plan is made under, as JSON."""
    return {
        name: constraint.model_dump(mode="json", exclude_none=True)
        for name, constraint in config.sharding.constraints.items()
    }


def read_plan(path: Path) -> PlanDocument:
    """Reads a plan's file. Raises `UserError` that names it, the key and the value."""
    try:
        return PlanDocument.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); make a plan with recsys plan --out"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {key}: {first['msg']}; make it again with recsys plan") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); make it again with recsys plan") from None


def check_plan(
    plan: PlanDocument, config: Config, world: int, ranks_per_node: int, device: str, where: str
) -> None:
    """Raises `UserError`, naming the table, if a plan does not fit the configuration and ranks."""
    if plan.device != device:
        raise UserError(
            f"{where}: made for {plan.device}, but the ranks are on {device}; "
            "make a plan for these devices"
        )
    # A rank's GPU is its number on its host, and some types exchange among the ranks of a host.
    by_host = {table.sharding_type for table in plan.tables.values()} & {*HOST_TYPES}
    if plan.ranks_per_node != ranks_per_node and (device == "cuda" or by_host):
        raise UserError(
            f"{where}: ranks_per_node: {plan.ranks_per_node}, but the job has {ranks_per_node} on "
            "a host; make a plan for these ranks"
        )
    layout = Layout(config)
    for table in plan.tables:
        if table not in layout.collection_of:
            known = nearest(table, layout.collection_of)
            raise UserError(
                f"{where}: tables.{table}: the configuration has no such table; {known}"
            )
    for table, collection in layout.collection_of.items():
        if table not in plan.tables:
            raise UserError(f"{where}: tables.{table}: missing; make a plan of this configuration")
        found = plan.tables[table]
        options = possible(collection, device)
        if found.compute_kernel not in options.get(found.sharding_type, ()):
            raise UserError(
                f"{where}: tables.{table}: {found.sharding_type} with {found.compute_kernel} is "
                f"impossible on {device}; possible: {show_possible(collection, device)}"
            )
        for shard in found.shards:
            if shard.rank >= world:
                raise UserError(
                    f"{where}: tables.{table}: has a shard on rank {shard.rank}, but there are "
                    f"{world} ranks; make a plan for them"
                )
        shape = (table_rows(config.tables[table]), config.tables[table].dim)
        if fault := _fault_of_shards(found, shape, world, plan.ranks_per_node):
            raise UserError(
                f"{where}: tables.{table}: {found.sharding_type}: {fault}; "
                "make a plan of this configuration for these ranks"
            )


def _fault_of_shards(
    table: TableDocument, shape: tuple[int, int], world: int, local: int
) -> str | None:
    """What TorchRec would have done otherwise: it takes the shards of a type for granted."""
    sizes, offsets = calculate_shard_sizes_and_offsets(
        torch.empty(shape, device="meta"),
        world,
        local,
        table.sharding_type,
        col_wise_shard_dim=table.shards[0].sizes[1],
    )
    found = [(list(shard.sizes), list(shard.offsets)) for shard in table.shards]
    ranks = [shard.rank for shard in table.shards]
    if found != list(zip(sizes, offsets, strict=True)):
        return f"its {len(found)} shards do not cover {shape[0]} × {shape[1]} as TorchRec cuts them"
    if list(table.ranks) != ranks:
        return f"ranks {list(table.ranks)} are not those of its shards, {ranks}"
    # These are exchanged among all ranks of the job, or of a host, each with the block of its own.
    blocks = {"row_wise": world, **dict.fromkeys(HOST_TYPES, local)}
    block = blocks.get(table.sharding_type)
    if block is None:
        return None
    for begin in range(0, len(ranks), block):
        host = ranks[begin : begin + block]
        if host != list(range(host[0], host[0] + block)) or host[0] % block:
            return f"its shards are on ranks {host}, not on {block} successive ones of a host"
    return None


def sharding_plan(plan: PlanDocument, model: nn.Module) -> ShardingPlan:
    """The plan as TorchRec's modules take it."""
    kinds = {sharder.module_type: sharder for sharder in sharders()}
    found = {}
    for path, module in model.named_modules():
        sharder = kinds.get(type(module))
        if sharder is None:
            continue
        found[path] = EmbeddingModuleShardingPlan(
            {
                table: _parameter(plan.tables[table], plan)
                for table in sharder.shardable_parameters(module)
            }
        )
    return ShardingPlan(found)  # type: ignore[arg-type]


def _parameter(table: TableDocument, plan: PlanDocument) -> ParameterSharding:
    shards = [
        ShardMetadata(
            shard_offsets=list(shard.offsets),
            shard_sizes=list(shard.sizes),
            placement=placement(plan.device, shard.rank, plan.ranks_per_node),
        )
        for shard in table.shards
    ]
    return ParameterSharding(
        sharding_type=table.sharding_type,
        compute_kernel=table.compute_kernel,
        ranks=list(table.ranks),
        sharding_spec=EnumerableShardingSpec(shards),
        cache_params=cache_params((table.compute_kernel,), table.cache_load_factor),
    )

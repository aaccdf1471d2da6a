"""The sharding plan of a model: TorchRec's planner under the configuration's constraints."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingPlan

from recsys.config import Config
from recsys.data.layout import Layout, is_sequences
from recsys.errors import UserError

# Tried on gloo with torchrec 1.8: row-wise works for an EmbeddingCollection and is refused for an
# EmbeddingBagCollection. Column-wise is left to explicit constraints, because row-wise Adagrad
# keeps one state per column shard, which fits no other sharding.
CPU_TYPES = {True: ["table_wise", "row_wise"], False: ["table_wise"]}
CUDA_TYPES = ["table_wise", "row_wise", "table_row_wise"]


def sharders() -> list[ModuleSharder[nn.Module]]:
    """The sharders of the collections that a `ShardedLookup` is made of."""
    return [EmbeddingCollectionSharder(), EmbeddingBagCollectionSharder()]  # type: ignore[list-item]


def planner_constraints(config: Config, device: str) -> dict[str, ParameterConstraints]:
    """What the planner may choose from, table by table.

    `data_parallel` is never allowed: such a table loses its fused optimizer.
    """
    layout = Layout(config)
    found = {}
    for table, collection in layout.collection_of.items():
        types = CUDA_TYPES if device == "cuda" else CPU_TYPES[is_sequences(collection)]
        kernels = ["fused"]
        if own := config.sharding.constraints.get(table):
            types = list(own.types or types)
            kernels = list(own.kernels or kernels)
        found[table] = ParameterConstraints(sharding_types=types, compute_kernels=kernels)
    return found


def make_plan(model: nn.Module, config: Config, world: int, device: torch.device) -> ShardingPlan:
    """The planner's plan for `world` ranks, the same on all of them (collective).

    Raises `UserError` with the planner's reason if no plan fits.
    """
    topology = Topology(
        world_size=world,
        local_world_size=int(torch.cuda.device_count() or world)
        if device.type == "cuda"
        else world,
        compute_device=device.type,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=config.training.batch_candidates,
        constraints=planner_constraints(config, device.type),
        # Of each device's memory, for everything that is not a table.
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
    )
    try:
        if world > 1:
            return planner.collective_plan(model, sharders(), dist.group.WORLD)
        return planner.plan(model, sharders())
    except (PlannerError, RuntimeError) as error:
        # RuntimeError: a constraint leaves no option on this device.
        reason = " ".join(str(error).split())
        raise UserError(f"sharding: no plan fits {world} {device.type} ranks: {reason}") from error


def plan_document(plan: ShardingPlan) -> dict[str, Any]:
    """The plan as JSON: table → sharding type, kernel, ranks and shards (row, column offsets)."""
    tables: dict[str, Any] = {}
    for module_plan in plan.plan.values():
        assert isinstance(module_plan, EmbeddingModuleShardingPlan)
        for table, sharding in module_plan.items():
            spec = sharding.sharding_spec
            tables[table] = {
                "sharding_type": sharding.sharding_type,
                "compute_kernel": sharding.compute_kernel,
                "ranks": sharding.ranks,
                "shards": [
                    {
                        "offsets": list(shard.shard_offsets),
                        "sizes": list(shard.shard_sizes),
                        "placement": str(shard.placement),
                    }
                    for shard in getattr(spec, "shards", [])
                ],
            }
    return {"tables": tables}

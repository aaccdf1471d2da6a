"""What the planner may choose from, table by table; checked against what the device can do."""

from collections.abc import Collection
from typing import get_args

from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.types import CacheParams, ModuleSharder

from recsys.config import Config
from recsys.config.sharding import Kernel, ShardingType
from recsys.data.layout import Layout, is_sequences
from recsys.errors import UserError
from recsys.sharding.workload import Workload

# Column-wise is left to explicit constraints, because row-wise Adagrad keeps one state per column
# shard, which fits no other sharding.
DEFAULT_TYPES = ("table_wise", "row_wise", "table_row_wise")
DEFAULT_KERNELS = ("fused",)


def sharders() -> list[ModuleSharder[nn.Module]]:
    """The sharders of the collections that a `ShardedLookup` is made of."""
    return [EmbeddingCollectionSharder(), EmbeddingBagCollectionSharder()]  # type: ignore[list-item]


def possible(collection: str, compute: str) -> dict[str, list[str]]:
    """Sharding type → kernels that TorchRec has for a collection on a device, and we support.

    `data_parallel` is never among them: such a table loses its fused optimizer.
    """
    sequences, bags = sharders()
    sharder = sequences if is_sequences(collection) else bags
    types, kernels = get_args(ShardingType), get_args(Kernel)
    return {
        kind: [k for k in kernels if k in sharder.compute_kernels(kind, compute)]
        for kind in types
        if kind in sharder.sharding_types(compute)
    }


def show_possible(collection: str, compute: str) -> str:
    """`possible` as a line for an error."""
    found = possible(collection, compute)
    return "; ".join(f"{kind} with {', '.join(kernels)}" for kind, kernels in found.items())


def planner_constraints(
    config: Config, compute: str, workload: Workload
) -> dict[str, ParameterConstraints]:
    """The configuration's constraints and the workload's lengths, for TorchRec's planner.

    Raises `UserError` that lists what is possible if a table is left without an option.
    """
    layout = Layout(config)
    return {
        table: _of_table(config, layout, table, collection, compute, workload)
        for table, collection in layout.collection_of.items()
    }


def _of_table(
    config: Config,
    layout: Layout,
    table: str,
    collection: str,
    compute: str,
    workload: Workload,
) -> ParameterConstraints:
    own = config.sharding.constraint_of(table)
    options = possible(collection, compute)
    if compute == "cpu" and config.tables[table].dtype == "bf16":
        raise UserError(
            f"tables.{table}.dtype: bf16: FBGEMM does not train bf16 tables on a CPU; "
            "use fp16 or fp32"
        )
    kernels = list(own.kernels or DEFAULT_KERNELS)
    types = [t for t in own.types or DEFAULT_TYPES if set(options.get(t, ())) & set(kernels)]
    if not types:
        asked = f"types {list(own.types)}" if own.types else "the default types"
        asked += f" and kernels {list(own.kernels)}" if own.kernels else ""
        raise UserError(
            f"sharding.constraints.{table}: {asked}: impossible on {compute} for "
            f"a table of {'sequences' if is_sequences(collection) else 'bags'}; possible: "
            f"{show_possible(collection, compute)}"
        )
    dim = config.tables[table].dim
    if own.min_partition and own.min_partition > dim:
        raise UserError(
            f"sharding.constraints.{table}.min_partition: {own.min_partition}: "
            f"the table has {dim} columns; give at most {dim // 2} to cut it"
        )
    readers = [column for column in layout.ids_of(collection) if column.feature.id == table]
    runs = [workload.runs(column, collection) for column in readers]
    return ParameterConstraints(
        sharding_types=types,
        compute_kernels=kernels,
        min_partition=own.min_partition,
        cache_params=cache_params(kernels, own.cache_load_factor),
        batch_sizes=[count for count, _ in runs],
        pooling_factors=[length for _, length in runs],
        num_poolings=[1.0] * len(runs),
    )


def cache_params(kernels: Collection[str], load_factor: float | None) -> CacheParams | None:
    """How a table of one of `kernels` is cached on the GPU; None if it is not.

    Rows may be brought into the cache a batch ahead, by the pipeline. Without it, a lookup brings
    them in itself.
    """
    if "fused_uvm_caching" not in kernels:
        return None
    return CacheParams(load_factor=load_factor, prefetch_pipeline=True)

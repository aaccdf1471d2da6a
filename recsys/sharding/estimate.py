"""What a plan costs, by TorchRec's estimates: per table, per rank, and what binds."""

from typing import Any

from torchrec.distributed.planner.types import ShardingOption

from recsys.model.lookup import DATA_TYPES, table_rows
from recsys.sharding.plan import Planned

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
STATE_BYTES = 4  # of row-wise Adagrad: one fp32 number a row and shard
assert set(BYTES) == set(DATA_TYPES)


def estimate(planned: Planned) -> dict[str, Any]:
    """The report of a plan that fits, as JSON.

    Times are of one step: the lookups' forward and backward passes and the exchange of rows and
    gradients, in ms, without the dense part of the model, as if nothing overlapped. The step is as
    long as the slowest rank. Bytes of a rank are the planner's: weights, optimizer state, and what
    lookups read and write.
    """
    tables = {option.name: _table(planned, option) for option in planned.options}
    order = [name for name in planned.config.tables if name in tables]
    ranks = _ranks(planned)
    slowest = max(ranks, key=lambda rank: rank["total_ms"])
    return {
        "config": planned.config.name,
        "topology": planned.cluster.document(),
        "workload": planned.workload.document(),
        "fits": True,
        "step_ms": slowest["total_ms"],
        "imbalance": {
            "time": _imbalance([rank["total_ms"] for rank in ranks]),
            "memory": _imbalance([rank["hbm_used"] or rank["ddr_used"] for rank in ranks]),
        },
        "totals": {
            "tables": len(tables),
            "rows": sum(table["rows"] for table in tables.values()),
            "weight_bytes": sum(table["weight_bytes"] for table in tables.values()),
            "optimizer_bytes": sum(table["optimizer_bytes"] for table in tables.values()),
            "lookups_per_rank": sum(table["lookups_per_rank"] for table in tables.values()),
        },
        "binds": _binds(planned, ranks),
        "tables": {name: tables[name] for name in order},
        "ranks": ranks,
        "planning_seconds": planned.seconds,
        "plan": planned.document.dump(),
    }


def _table(planned: Planned, option: ShardingOption) -> dict[str, Any]:
    table = planned.config.tables[option.name]
    constraint = planned.planner.constraints[option.name]
    lookups = zip(constraint.batch_sizes or [], constraint.pooling_factors, strict=True)
    area = sum(rows * columns for rows, columns in (shard.size for shard in option.shards))
    return {
        "rows": table_rows(table),
        "dim": table.dim,
        "dtype": table.dtype,
        "sharding_type": option.sharding_type,
        "compute_kernel": option.compute_kernel,
        "cache_load_factor": option.cache_load_factor
        if option.compute_kernel == "fused_uvm_caching"
        else None,
        "ranks": sorted({int(shard.rank or 0) for shard in option.shards}),
        "shards": len(option.shards),
        "weight_bytes": area * BYTES[table.dtype],
        "optimizer_bytes": sum(shard.size[0] for shard in option.shards) * STATE_BYTES,
        "hbm_bytes": option.total_storage.hbm,
        "ddr_bytes": option.total_storage.ddr,
        "lookups_per_rank": sum(runs * length for runs, length in lookups),
        "rank_ms": max(_of_rank(option).values()),
    }


def _of_rank(option: ShardingOption) -> dict[int, float]:
    """Rank → ms that it spends on a table."""
    found: dict[int, float] = {}
    for shard in option.shards:
        rank = int(shard.rank or 0)
        found[rank] = found.get(rank, 0.0) + _ms(shard)["total_ms"]
    return found


def _ms(shard: Any) -> dict[str, float]:
    perf = shard.perf
    return {
        "lookup_ms": perf.fwd_compute + perf.bwd_compute + perf.prefetch_compute,
        "communication_ms": perf.fwd_comms + perf.bwd_comms,
        "total_ms": perf.total,
    }


def _ranks(planned: Planned) -> list[dict[str, Any]]:
    """What each rank holds and takes."""
    free = planned.planner.available.devices
    whole = planned.planner.topology.devices
    found: list[dict[str, Any]] = [
        {
            "rank": rank,
            "shards": 0,
            "table_bytes": 0,
            "hbm_used": 0,
            "ddr_used": 0,
            "lookup_ms": 0.0,
            "communication_ms": 0.0,
            "total_ms": 0.0,
        }
        for rank in range(planned.cluster.world)
    ]
    for option in planned.options:
        size = BYTES[planned.config.tables[option.name].dtype]
        for shard in option.shards:
            rank = found[int(shard.rank or 0)]
            rows, columns = shard.size
            rank["shards"] += 1
            rank["table_bytes"] += rows * columns * size + rows * STATE_BYTES
            rank["hbm_used"] += shard.storage.hbm
            rank["ddr_used"] += shard.storage.ddr
            for name, value in _ms(shard).items():
                rank[name] += value
    for rank in found:
        for memory in ("hbm", "ddr"):
            total = getattr(whole[rank["rank"]].storage, memory)
            usable = getattr(free[rank["rank"]].storage, memory)
            rank[f"{memory}_total"] = total
            rank[f"{memory}_reserved"] = total - usable
            rank[f"{memory}_free"] = usable - rank[f"{memory}_used"]
    return found


def _imbalance(values: list[float]) -> float:
    """Largest over mean; 1 is even."""
    mean = sum(values) / len(values)
    return max(values) / mean if mean else 1.0


def _binds(planned: Planned, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The slowest rank and what it waits for, and the fullest memory, each with its worst table."""
    slowest = max(ranks, key=lambda rank: rank["total_ms"])
    compute = slowest["lookup_ms"] >= slowest["communication_ms"]

    def of_rank(rank: int, measure: Any) -> dict[str, float]:
        sums: dict[str, float] = {}
        for option in planned.options:
            mine = sum(measure(shard) for shard in option.shards if shard.rank == rank)
            sums[option.name] = sums.get(option.name, 0) + mine
        return sums

    times = of_rank(slowest["rank"], lambda shard: shard.perf.total)
    fullest, memory, share = 0, "ddr", 0.0
    for rank in ranks:
        for name in ("hbm", "ddr"):
            usable = rank[f"{name}_used"] + rank[f"{name}_free"]
            if usable and rank[f"{name}_used"] / usable > share:
                fullest, memory, share = rank["rank"], name, rank[f"{name}_used"] / usable
    sizes = of_rank(fullest, lambda shard: getattr(shard.storage, memory))
    time_table = max(times, key=lambda table: times[table])
    size_table = max(sizes, key=lambda table: sizes[table])
    return {
        "time": {
            "rank": slowest["rank"],
            "what": "lookups" if compute else "exchange",
            "table": time_table,
            "share_of_rank": times[time_table] / slowest["total_ms"] if slowest["total_ms"] else 0,
        },
        "memory": {
            "rank": fullest,
            "what": memory,
            "used_of_usable": share,
            "table": size_table,
            "share_of_rank": sizes[size_table] / max(1, sum(sizes.values())),
        },
    }

"""Why the tables do not fit: what is short, for which table, on which rank."""

from collections import defaultdict

from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import ShardingOption

from recsys.sharding.units import show_bytes

NAMES = {"hbm": "device memory (HBM)", "ddr": "host memory (DDR)"}


def shortage(options: list[ShardingOption], available: Topology) -> str | None:
    """One line, or None if each table and all together would fit: then it is how they pack.

    Args:
        options: all ways of sharding each table, with estimated storage.
        available: what tables may take on each rank.
    """
    by_table: dict[str, list[ShardingOption]] = defaultdict(list)
    for option in options:
        by_table[option.name].append(option)
    found = []
    for memory, name in NAMES.items():
        on_rank = max(getattr(device.storage, memory) for device in available.devices)
        together = sum(getattr(device.storage, memory) for device in available.devices)
        # A table whose least demanding way has a shard that no rank can hold.
        for table, ways in by_table.items():
            least = min(max(getattr(s.storage, memory) for s in way.shards) for way in ways)
            if least > on_rank:
                kinds = sorted({way.sharding_type for way in ways})
                found.append(
                    f"table {table} needs {show_bytes(least)} of {name} on one rank even by the "
                    f"most even of {', '.join(kinds)}; a rank has {show_bytes(on_rank)} for tables"
                )
        needed = {
            table: min(getattr(way.total_storage, memory) for way in ways)
            for table, ways in by_table.items()
        }
        if sum(needed.values()) > together:
            largest = max(needed, key=lambda table: needed[table])
            ranks, most = len(available.devices), show_bytes(needed[largest])
            found.append(
                f"the tables need at least {show_bytes(sum(needed.values()))} of {name} with "
                f"optimizer state and buffers (the largest, {largest}, {most}); {ranks} ranks have "
                f"{show_bytes(together)} for them"
            )
    return "; ".join(found) or None

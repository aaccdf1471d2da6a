"""A store for this attempt of the job, and for no earlier one.

torchrun keeps one TCPStore for all of its restarts (torch 2.13: `DynamicRendezvousHandler` hands
out the store of the first attempt again, and the env:// rendezvous puts no attempt before its keys
any more). The ranks of a restarted job then find the addresses of processes that are dead, and wait
for them without end. Nor do all ranks know the attempt's number: an agent counts its own restarts.
So the ranks agree on a name of their own.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from recsys.errors import RankError

POLL_SECONDS = 0.02


def fresh_store(rank: int, world: int, timeout: timedelta) -> dist.Store:
    """The store that torchrun announces, under a name that only this attempt's ranks use.

    Rank 0 writes a new name. Another rank may still read an old one, so it says hello under the
    name it read, with a number of its own, and believes the name once rank 0 has answered with that
    number: a dead rank 0 cannot. Raises `RankError` if that takes longer than `timeout`.
    """
    store, *_ = next(iter(dist.rendezvous("env://", rank, world, timeout=timeout)))
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("attempt", own)
        for other in range(1, world):
            hello = store.get(f"{own}/hello/{other}")  # waits
            store.set(f"{own}/welcome/{other}", hello)
        return dist.PrefixStore(own, store)
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        if store.check(["attempt"]):
            name = store.get("attempt").decode()
            store.set(f"{name}/hello/{rank}", own)
            answer = f"{name}/welcome/{rank}"
            if store.check([answer]) and store.get(answer).decode() == own:
                return dist.PrefixStore(name, store)
        time.sleep(POLL_SECONDS)
    raise RankError(
        f"rank {rank}: rank 0 did not come within training.timeout_seconds "
        f"({timeout.total_seconds():.0f}); its own log says why"
    )

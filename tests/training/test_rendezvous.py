"""Ranks meet in a store that an earlier attempt of the job has used."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from recsys.errors import RankError
from recsys.training.rendezvous import fresh_store

TIMEOUT = timedelta(seconds=10)


@pytest.fixture
def agent_store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """What torchrun keeps over restarts."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def meet(world: int) -> list[dist.Store]:
    with ThreadPoolExecutor(world) as pool:
        ranks = [pool.submit(fresh_store, rank, world, TIMEOUT) for rank in reversed(range(world))]
        return [rank.result() for rank in ranks]


def test_each_attempt_has_keys_of_its_own(agent_store: dist.TCPStore) -> None:
    for attempt in range(3):
        stores = meet(3)
        assert not any(store.check(["address"]) for store in stores)
        stores[0].set("address", str(attempt))
        assert [store.get("address") for store in stores] == [str(attempt).encode()] * 3


def test_what_a_dead_rank_0_left_is_not_believed(agent_store: dist.TCPStore) -> None:
    """It died after it had answered: name, hello and welcome are all there."""
    agent_store.set("attempt", "old")
    agent_store.set("old/hello/1", "dead")
    agent_store.set("old/welcome/1", "dead")
    agent_store.set("old/address", "nowhere")
    for store in meet(2):
        assert not store.check(["address"])


def test_a_rank_0_that_does_not_come_is_not_waited_for_without_end(
    agent_store: dist.TCPStore,
) -> None:
    agent_store.set("attempt", "old")
    with pytest.raises(RankError, match="rank 1: rank 0 did not come within"):
        fresh_store(1, 2, timedelta(seconds=1))

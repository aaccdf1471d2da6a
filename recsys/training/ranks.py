"""This process among the ranks of the job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from recsys.errors import RankError, UserError
from recsys.gpus import usable_gpus
from recsys.training.first_rank import FirstRank
from recsys.training.rendezvous import fresh_store

# What gloo and NCCL say of a partner that is gone or late.
LOST = ("gloo/", "Connection closed by peer", "Timed out waiting", "NCCL", "Connection reset")


@dataclass(frozen=True)
class Ranks:
    """Who this process is: one of `world` ranks, on `device`."""

    rank: int
    world: int
    device: torch.device
    alone: FirstRank | None = field(default=None, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this rank writes the files that exist once a run."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: object) -> list[object]:
        """The value of every rank, in rank order."""
        if self.world == 1:
            return [value]
        found: list[object] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def raise_on_all(self, fault: str | None) -> None:
        """Raises on every rank, as `UserError`, what went wrong on any; the first of them."""
        found = next((each for each in self.gather(fault) if each is not None), None)
        if found is not None:
            raise UserError(str(found))

    @contextmanager
    def after_first(self) -> Iterator[None]:
        """A block `together` in which the first rank works however long; the others wait for it.

        Collective, but no wait for the first rank's work is cut short by the timeout.
        """
        with self.together(), self.alone.works() if self.alone else nullcontext():
            yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block whose `UserError` on one rank is raised by all at its end."""
        fault = None
        try:
            yield
        except UserError as error:
            fault = str(error)
        self.raise_on_all(fault)


@contextmanager
def start_ranks(timeout_seconds: int, threads: int | None = None) -> Iterator[Ranks]:
    """Joins the process group that torchrun announces, or makes one of a single rank.

    TorchRec's sharded modules need a process group even on one rank. No wait for another rank that
    gives no sign of life is longer than `timeout_seconds`.
    """
    if threads:
        torch.set_num_threads(threads)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = usable_gpus() > 0
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_seconds)
    with _lost_ranks_named(rank, timeout_seconds):
        # Alone, without torchrun, there is nobody to meet.
        store = (
            fresh_store(rank, world, timeout) if "MASTER_ADDR" in os.environ else dist.HashStore()
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            rank=rank,
            world_size=world,
            timeout=timeout,
            store=store,
        )
        try:
            alone = FirstRank(rank, store, timeout_seconds) if world > 1 else None
            yield Ranks(rank, world, device, alone)
        finally:
            dist.destroy_process_group()


@contextmanager
def _lost_ranks_named(rank: int, timeout_seconds: int) -> Iterator[None]:
    """Turns the errors of a collective whose partner is gone or late into one line."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, dist.DistError) and not any(sign in text for sign in LOST):
            raise
        raise RankError(
            f"rank {rank}: another rank is gone, or was silent for training.timeout_seconds "
            f"({timeout_seconds}); its own log says why; go on with --resume ({text[-200:]})"
        ) from error

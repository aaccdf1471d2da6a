"""The one place that makes plans: TorchRec's planner under the configuration's constraints.

`recsys train` and `recsys plan` both come here. What is made is a `PlanDocument`; a job's ranks
build their modules from it, whether it was made just now or read from a file.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.proposers import (
    GreedyProposer,
    GridSearchProposer,
    UniformProposer,
)
from torchrec.distributed.planner.types import (
    Partitioner,
    PerfModel,
    PlannerError,
    Proposer,
    ShardingOption,
    Stats,
)
from torchrec.distributed.types import ModuleSharder
from torchrec.optim import RowWiseAdagrad

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.errors import UserError
from recsys.model.lookup import ShardedLookup
from recsys.model.unified import build_model
from recsys.sharding.constraints import planner_constraints, sharders
from recsys.sharding.document import PlanDocument, document_of
from recsys.sharding.reservation import Reservation
from recsys.sharding.shortage import shortage
from recsys.sharding.topology import Cluster
from recsys.sharding.workload import Workload

MOST_COMBINATIONS = 10_000
EXCHANGED_BYTES = 4  # of a weight or gradient between ranks


class DoesNotFitError(UserError):
    """No plan of a configuration fits a cluster; the message says what is short."""


class Planner:
    """TorchRec's planner for one configuration on one cluster.

    Args:
        config: the experiment.
        cluster: the machines.
        workload: lengths and batch sizes.
        model: with its tables on the meta device and the optimizer registered (`planning_model`).
    """

    def __init__(
        self, config: Config, cluster: Cluster, workload: Workload, model: nn.Module
    ) -> None:
        self.config = config
        self.cluster = cluster
        self.workload = workload
        self.model = model
        self.topology = cluster.torchrec()
        self.reservation = Reservation(config.sharding.reserve)
        self.constraints = planner_constraints(config, cluster.device.compute, workload)
        self.sharders = sharders()

    def plan(
        self,
        *,
        proposer: list[Proposer] | None = None,
        partitioner: Partitioner | None = None,
        performance_model: PerfModel | None = None,
    ) -> "Planned":
        """Plans. Raises `DoesNotFitError` that says what is short, and by how much."""
        started = time.perf_counter()
        planner = EmbeddingShardingPlanner(
            topology=self.topology,
            enumerator=self._enumerator(),
            batch_size=self.workload.requests,
            constraints=self.constraints,
            storage_reservation=self.reservation,
            proposer=proposer or default_proposers(self.cluster.world),
            partitioner=partitioner,
            performance_model=performance_model,
            stats=_NoStats(),  # its table is made even where nobody reads it
            debug=False,
        )
        try:
            planner.plan(self.model, self.sharders)
        except PlannerError as error:
            options = self.options()
            # Why the memory does not do, in our words; else the planner's reason.
            reason = shortage(options, self.available) or " ".join(str(error).split())
            raise DoesNotFitError(
                f"sharding: no plan fits {self.cluster.label} "
                f"({self.cluster.world} ranks): {reason}"
            ) from error
        assert planner._best_plan is not None
        seconds = time.perf_counter() - started
        return Planned(self.config, self.cluster, self.workload, planner._best_plan, self, seconds)

    def options(self) -> list[ShardingOption]:
        """Everything that the planner may choose from, with estimates."""
        return self._enumerator().enumerate(self.model, self.sharders)

    def _enumerator(self) -> EmbeddingEnumerator:
        return OrderedEnumerator(
            topology=self.topology,
            batch_size=self.workload.requests,
            constraints=self.constraints,
        )

    @property
    def available(self) -> Topology:
        """Memory that tables may take on each rank."""
        return self.reservation.reserve(
            self.topology, self.workload.requests, self.model, self.sharders, self.constraints
        )


@dataclass
class Planned:
    """A plan with the planner's estimates."""

    config: Config
    cluster: Cluster
    workload: Workload
    options: list[ShardingOption]
    planner: Planner
    seconds: float

    @property
    def document(self) -> PlanDocument:
        cluster = self.cluster
        return document_of(
            self.options, self.config, cluster.world, cluster.ranks, cluster.device.compute
        )


class OrderedEnumerator(EmbeddingEnumerator):
    """TorchRec's, in an order that does not depend on the hashes of strings: it goes through sets
    of types, so that among equals each process would choose another plan."""

    def enumerate(
        self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]
    ) -> list[ShardingOption]:
        options = super().enumerate(module, sharders)
        places = {option.fqn: place for place, option in reversed(list(enumerate(options)))}
        return sorted(options, key=lambda o: (places[o.fqn], o.sharding_type, o.compute_kernel))

    def populate_estimates(self, sharding_options: list[ShardingOption]) -> None:
        super().populate_estimates(sharding_options)
        # TorchRec's estimate exchanges rows in the type that the table is stored in; in truth the
        # lookups of an fp16 table give fp32, and that is what is exchanged.
        for option in sharding_options:
            wider = EXCHANGED_BYTES / option.tensor.element_size()
            for shard in option.shards:
                assert shard.perf is not None
                shard.perf.fwd_comms *= wider
                shard.perf.bwd_comms *= wider


def default_proposers(world: int) -> list[Proposer]:
    """TorchRec's own. It tries all combinations of the tables' types if they are few; how long one
    takes grows with the ranks, so that few are fewer on many ranks."""
    return [
        GridSearchProposer(max_proposals=MOST_COMBINATIONS // world),
        GreedyProposer(),
        GreedyProposer(use_depth=False),
        UniformProposer(),
    ]


class _NoStats(Stats):
    def log(self, **_: Any) -> None:  # type: ignore[override]
        pass


def planning_model(config: Config) -> nn.Module:
    """The model on the meta device, nothing of it allocated, with the optimizer that the planner
    counts the state of."""
    with torch.device("meta"):
        model = build_model(config, ShardedLookup(Layout(config), device="meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, model.lookup.parameters(), {"lr": 0.0})
    return model


def plan_tables(config: Config, cluster: Cluster, workload: Workload) -> Planned:
    """TorchRec's plan of a configuration for a cluster.

    Raises `DoesNotFitError`, or another `UserError` for constraints that leave no option.
    """
    return Planner(config, cluster, workload, planning_model(config)).plan()

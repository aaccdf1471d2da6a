"""Plans worth measuring: what TorchRec's proposers propose, under many constraints."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torchrec.distributed.planner.partitioners import (
    GreedyPerfPartitioner,
    MemoryBalancedPartitioner,
)
from torchrec.distributed.planner.perf_models import NoopPerfModel
from torchrec.distributed.planner.types import Partitioner, ShardingOption

from recsys.config import Config
from recsys.config.sharding import COLUMN_TYPES, ConstraintConfig
from recsys.data.layout import Layout
from recsys.sharding.change import constrained
from recsys.sharding.constraints import DEFAULT_TYPES, possible
from recsys.sharding.document import PlanDocument
from recsys.sharding.plan import DoesNotFitError, Planned, Planner, planning_model
from recsys.sharding.topology import Cluster
from recsys.sharding.workload import Workload

BUSIEST = 4  # tables whose types are varied one by one
ALIKE = 1.02  # ratio of estimates below which plans hardly differ


@dataclass(frozen=True)
class Candidate:
    """A plan, TorchRec's estimate of it, and which search found it."""

    planned: Planned
    step_ms: float
    origin: str

    @property
    def plan(self) -> PlanDocument:
        return self.planned.document


class Recorder(NoopPerfModel):
    """Rates plans as TorchRec does, and keeps the best of each way of dividing the tables."""

    def __init__(self, planner: Planner) -> None:
        super().__init__(planner.topology)
        self.seen: dict[Any, tuple[float, list[ShardingOption]]] = {}

    def rate(self, plan: list[ShardingOption]) -> float:
        rating = float(super().rate(plan))
        key = division(plan)
        if key not in self.seen or rating < self.seen[key][0]:
            self.seen[key] = rating, deepcopy(plan)
        return rating


def search(
    config: Config,
    cluster: Cluster,
    workload: Workload,
    begun: Callable[[str], None] = lambda name: None,
) -> list[Candidate]:
    """The default plan, then one plan for each way of dividing the tables, by estimate.

    Of plans that divide the tables in the same way and only place them on other ranks, the one with
    the best estimate is kept. What the configuration's constraints forbid is not tried. Raises
    `DoesNotFitError` if not even the default plan fits.
    """
    model = planning_model(config)
    begun("the default plan")
    default = Planner(config, cluster, workload, model).plan()
    first = Candidate(default, _step_ms(default), "default")
    best: dict[Any, Candidate] = {}
    for origin, changed, partitioner in sweep(config, cluster, workload):
        begun(origin)
        planner = Planner(changed, cluster, workload, model)
        recorder = Recorder(planner)
        try:
            found = planner.plan(partitioner=partitioner, performance_model=recorder)
        except DoesNotFitError:
            continue
        for key, (rating, options) in recorder.seen.items():
            if key not in best or rating < best[key].step_ms:
                planned = Planned(changed, cluster, workload, options, planner, found.seconds)
                best[key] = Candidate(planned, rating, origin)
    best.pop(division(default.options), None)
    return [first, *sorted(best.values(), key=lambda candidate: candidate.step_ms)]


def _step_ms(planned: Planned) -> float:
    return float(NoopPerfModel(planned.planner.topology).rate(planned.options))


def division(plan: list[ShardingOption]) -> Any:
    """How a plan divides each table, whichever ranks hold the parts."""
    return frozenset(
        (
            option.name,
            option.sharding_type,
            option.compute_kernel,
            tuple(tuple(shard.size) for shard in option.shards),
        )
        for option in plan
    )


def sweep(
    config: Config, cluster: Cluster, workload: Workload
) -> Iterator[tuple[str, Config, Partitioner]]:
    """(name, configuration, partitioner) of each search; only tables whose types the configuration
    leaves open are varied."""
    layout, compute = Layout(config), cluster.device.compute

    def typed(wanted: Mapping[str, tuple[str, ...]], parts: int = 2) -> Config:
        def change(table: str, own: ConstraintConfig) -> dict[str, Any]:
            options = possible(layout.collection_of[table], compute)
            types = tuple(kind for kind in wanted[table] if kind in options)
            if own.types or not types:
                return {}
            fields: dict[str, Any] = {"types": types}
            dim = config.tables[table].dim
            if COLUMN_TYPES & set(types) and own.min_partition is None:
                fields["min_partition"] = max(4, dim // parts // 4 * 4)
            return fields

        return constrained(config, change)

    yield "the defaults' types", config, GreedyPerfPartitioner()
    yield "the defaults' types, even memory", config, MemoryBalancedPartitioner()
    kinds = list(dict.fromkeys(t for c in layout.collections for t in possible(c, compute)))
    tables = list(layout.collection_of)
    for kind in kinds:
        all_alike = typed(dict.fromkeys(tables, (kind,)))
        yield f"all {kind} where possible", all_alike, GreedyPerfPartitioner()
    for parts in (2, 4):
        everything = typed(dict.fromkeys(tables, tuple(kinds)), parts)
        yield f"all types, columns in {parts}", everything, GreedyPerfPartitioner()
    for table in busiest(config, workload):
        for kind in possible(layout.collection_of[table], compute):
            one = typed({**dict.fromkeys(tables, DEFAULT_TYPES), table: (kind,)})
            yield f"{table} {kind}", one, GreedyPerfPartitioner()


def busiest(config: Config, workload: Workload) -> list[str]:
    """The tables that a step reads most bytes of."""
    layout = Layout(config)
    read = dict.fromkeys(layout.collection_of, 0.0)
    for column in layout.ids:
        runs, length = workload.runs(column, layout.collection_of[column.feature.id])
        read[column.feature.id] += runs * length * config.tables[column.feature.id].dim
    return sorted(read, key=lambda table: -read[table])[:BUSIEST]


def distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Those of a list by estimate that are each at least `ALIKE` times the one before."""
    found: list[Candidate] = []
    for candidate in candidates:
        if not found or candidate.step_ms >= ALIKE * found[-1].step_ms:
            found.append(candidate)
    return found


def choose(candidates: list[Candidate], count: int) -> list[Candidate]:
    """The default plan, the best by estimate, and a few spread over the others.

    With the best alone, whose estimates hardly differ, nobody could see whether the estimate tells
    anything. The first is the default; of the rest half are the best, half are spread evenly. Of
    plans whose estimates are within 2 % one is taken, if there are enough others: they differ in
    tables that hardly matter.
    """
    default, every = candidates[0], candidates[1:]
    wanted = min(count - 1, len(every))
    rest = distinct(every)
    if len(rest) < wanted:
        rest = every
    best = rest[: (wanted + 1) // 2]
    others, left = rest[len(best) :], wanted - len(best)
    spread = [others[(number + 1) * len(others) // left - 1] for number in range(left)]
    return [default, *best, *spread]

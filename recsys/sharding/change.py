"""Changes of a configuration or cluster that may make the tables fit, each tried by planning."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from recsys.config import Config
from recsys.config.sharding import COLUMN_TYPES, ConstraintConfig
from recsys.data.layout import Layout
from recsys.errors import UserError
from recsys.sharding.constraints import DEFAULT_KERNELS, DEFAULT_TYPES, possible
from recsys.sharding.estimate import estimate
from recsys.sharding.plan import Planned, plan_tables
from recsys.sharding.topology import Cluster
from recsys.sharding.workload import Workload

LOAD_FACTORS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
MOST_DOUBLINGS = 6
CACHE = "fused_uvm_caching"


@dataclass(frozen=True)
class Change:
    """A configuration and a cluster to try in place of the first ones.

    Args:
        name: what is changed, for people.
        config, cluster: what to plan.
        note: what it costs besides time.
        family: of changes in one family only the first that fits is of interest.
        unless: not tried if a change of this family fits.
    """

    name: str
    config: Config
    cluster: Cluster
    note: str = ""
    family: str = ""
    unless: str = ""


@dataclass(frozen=True)
class Outcome:
    """A change, and what planning it gave."""

    change: Change
    planned: Planned | None
    report: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON; `constraints` are what to paste under `sharding.constraints`."""
        return {
            "change": self.change.name,
            "note": self.change.note,
            "fits": self.planned is not None,
            "topology": self.change.cluster.label,
            "world": self.change.cluster.world,
            "step_ms": self.report.get("step_ms"),
            "imbalance": self.report.get("imbalance"),
            "reason": self.reason or None,
            "constraints": changed_constraints(self.planned) if self.planned else None,
            "dtypes": changed_dtypes(self.planned) if self.planned else None,
        }


def constrained(
    config: Config, change: Callable[[str, ConstraintConfig], dict[str, Any]]
) -> Config:
    """The configuration with a constraint for every table: its own, updated by `change`.

    `change(table, constraint)` gives the fields to set. Patterns are resolved to tables.
    """
    layout = Layout(config)
    constraints = {}
    for table in layout.collection_of:
        own = config.sharding.constraint_of(table)
        fields = {**own.model_dump(), **change(table, own)}
        if fields["types"] and not COLUMN_TYPES & set(fields["types"]):
            fields["min_partition"] = None  # columns are not cut
        constraints[table] = ConstraintConfig(**fields)
    sharding = config.sharding.model_copy(update={"constraints": constraints})
    return config.model_copy(update={"sharding": sharding})


def changes(config: Config, cluster: Cluster) -> Iterator[Change]:
    """What may make a configuration fit, the cheapest kinds first."""
    layout, compute = Layout(config), cluster.device.compute

    def add_types(wanted: tuple[str, ...], cut: bool) -> Config:
        def change(table: str, own: ConstraintConfig) -> dict[str, Any]:
            options = possible(layout.collection_of[table], compute)
            added = [t for t in wanted if t in options]
            if not added:
                return {}
            narrowest = max(4, config.tables[table].dim // 4 // 4 * 4)
            types = dict.fromkeys((*(own.types or DEFAULT_TYPES), *added))
            fields: dict[str, Any] = {"types": tuple(t for t in types if t in options)}
            if cut and own.min_partition is None:
                fields["min_partition"] = narrowest
            return fields

        return constrained(config, change)

    def add_kernel(base: Config, kernel: str, load: float | None) -> Config:
        def change(table: str, own: ConstraintConfig) -> dict[str, Any]:
            kernels = dict.fromkeys((*(own.kernels or DEFAULT_KERNELS), kernel))
            return {"kernels": tuple(kernels)} | ({"cache_load_factor": load} if load else {})

        return constrained(base, change)

    rows = add_types(("row_wise", "table_row_wise"), cut=False)
    if rows.sharding != constrained(config, lambda *_: {}).sharding and _adds(
        config, rows, compute
    ):
        yield Change("row-wise allowed", rows, cluster)
    yield Change(
        "column-wise allowed",
        add_types(tuple(sorted(COLUMN_TYPES)), cut=True),
        cluster,
        "optimizer state a column shard: does not move exactly",
    )
    half = half_precision(config)
    if half is not None:
        yield Change(
            "fp16 tables",
            half,
            cluster,
            "weights of 11 bits; bf16 takes the same memory",
            family="fp16",
        )
    if compute == "cuda":
        for load in LOAD_FACTORS:
            yield Change(
                f"UVM caching, load factor {load:g}",
                add_kernel(config, CACHE, load),
                cluster,
                "rows in host memory, a share cached",
                family="caching",
            )
        if half is not None:
            for load in LOAD_FACTORS:
                yield Change(
                    f"fp16 tables and UVM caching, load factor {load:g}",
                    add_kernel(half, CACHE, load),
                    cluster,
                    "both of the above",
                    family="fp16 caching",
                    unless="fp16",
                )
        yield Change(
            "UVM", add_kernel(config, "fused_uvm", None), cluster, "rows in host memory, not cached"
        )
    for doubling in range(1, MOST_DOUBLINGS + 1):
        more = cluster.with_ranks(cluster.world * 2**doubling)
        yield Change(f"{more.world} ranks", config, more, "more machines", family="ranks")


def _adds(before: Config, after: Config, compute: str) -> bool:
    """Whether some table has a type that it did not have."""
    layout = Layout(before)
    for table, collection in layout.collection_of.items():
        options = possible(collection, compute)
        had = set(before.sharding.constraint_of(table).types or DEFAULT_TYPES) & set(options)
        if set(after.sharding.constraint_of(table).types or ()) - had:
            return True
    return False


def half_precision(config: Config) -> Config | None:
    """The configuration with fp32 tables stored as fp16; None if there is none."""
    if not any(table.dtype == "fp32" for table in config.tables.values()):
        return None
    tables = {
        name: table.model_copy(update={"dtype": "fp16" if table.dtype == "fp32" else table.dtype})
        for name, table in config.tables.items()
    }
    return config.model_copy(update={"tables": tables})


def attempt(change: Change, workload: Workload) -> Outcome:
    """Plans a change."""
    try:
        planned = plan_tables(change.config, change.cluster, workload)
    except UserError as error:  # does not fit, or a type that this device does not have
        return Outcome(change, None, reason=str(error))
    return Outcome(change, planned, estimate(planned))


def search(
    config: Config,
    cluster: Cluster,
    workload: Workload,
    begun: Callable[[str], None] = lambda name: None,
) -> list[Outcome]:
    """Every change tried: those that fit first, by ranks and then by estimated step time.

    In a family, goes on only until one fits. `begun(name)` is called before each attempt.
    """
    found: list[Outcome] = []
    settled: set[str] = set()
    for change in changes(config, cluster):
        if {change.family, change.unless} & settled:
            continue
        begun(change.name)
        outcome = attempt(change, workload)
        if outcome.planned is not None and change.family:
            settled.add(change.family)
        found.append(outcome)
    return sorted(found, key=_cost)


def _cost(outcome: Outcome) -> tuple[bool, int, float]:
    step = outcome.report.get("step_ms", 0.0)
    return outcome.planned is None, outcome.change.cluster.world, step


def changed_constraints(planned: Planned) -> dict[str, Any]:
    """Constraints that make the planner choose what it chose, for tables that are neither `fused`
    nor of a default type: what to paste into a configuration."""
    return {
        name: fields
        for name, fields in all_constraints(planned).items()
        if fields["kernels"] != ["fused"] or fields["types"][0] not in DEFAULT_TYPES
    }


def changed_dtypes(planned: Planned) -> dict[str, str]:
    """Tables that are not stored as fp32."""
    tables = planned.config.tables
    return {name: tables[name].dtype for name in tables if tables[name].dtype != "fp32"}


def all_constraints(planned: Planned) -> dict[str, Any]:
    """The same for every table."""
    document, found = planned.document, {}
    for name, table in document.tables.items():
        fields: dict[str, Any] = {
            "types": [table.sharding_type],
            "kernels": [table.compute_kernel],
        }
        if table.sharding_type in COLUMN_TYPES:
            fields["min_partition"] = table.shards[0].sizes[1]
        if table.cache_load_factor:
            fields["cache_load_factor"] = table.cache_load_factor
        found[name] = fields
    return found

"""What `recsys plan` answers: a plan with its costs, what would make it fit, and other clusters."""

from collections.abc import Callable
from typing import Any

from recsys.config import Config
from recsys.sharding.change import Change, attempt, search
from recsys.sharding.estimate import estimate
from recsys.sharding.plan import DoesNotFitError, plan_tables
from recsys.sharding.topology import Cluster
from recsys.sharding.workload import Workload, workload

WHAT_IF_WORLDS = (1, 8, 16, 64, 256)
Begun = Callable[[str], None]


def inquire(
    config: Config,
    cluster: Cluster,
    *,
    others: list[Cluster] | None = None,
    begun: Begun = lambda name: None,
) -> dict[str, Any]:
    """The report of a configuration on a cluster, as JSON; see `estimate`.

    If no plan fits, `fits` is false, `reason` says why, and `changes` what would make it fit, each
    tried. With `others`, `what_if` has a line for each of those clusters.
    """
    begun(f"lengths of {config.name}")
    lengths = workload(config)
    begun(cluster.label)
    try:
        planned = plan_tables(config, cluster, lengths)
        report = estimate(planned)
    except DoesNotFitError as error:
        outcomes = search(config, cluster, lengths, begun)
        report = {
            "config": config.name,
            "topology": cluster.document(),
            "workload": lengths.document(),
            "fits": False,
            "reason": str(error),
            "changes": [outcome.document() for outcome in outcomes],
        }
    if others:
        report["what_if"] = [_line(config, other, lengths, begun) for other in others]
    return report


def _line(config: Config, cluster: Cluster, lengths: Workload, begun: Begun) -> dict[str, Any]:
    begun(cluster.label)
    outcome = attempt(Change(cluster.label, config, cluster), lengths)
    report = outcome.report
    line = {
        "topology": cluster.label,
        "world": cluster.world,
        "fits": outcome.planned is not None,
        "reason": outcome.reason or None,
        "step_ms": report.get("step_ms"),
        "imbalance": report.get("imbalance"),
        "fullest": None,
        "planning_seconds": report.get("planning_seconds"),
    }
    if report:
        memory = report["binds"]["memory"]
        line["fullest"] = {"memory": memory["what"], "used_of_usable": memory["used_of_usable"]}
    return line


def what_if(cluster: Cluster) -> list[Cluster]:
    """1, 8, 16, 64 and 256 ranks of the same device and kind of host."""
    host = Cluster(1, max(8, cluster.ranks), cluster.device)
    return [host.with_ranks(world) for world in WHAT_IF_WORLDS]

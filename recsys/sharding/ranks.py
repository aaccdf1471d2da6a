"""The plan that a job's ranks train under: read or made by the first rank, the same on all."""

import logging
from pathlib import Path

import torch
import torch.distributed as dist

from recsys.config import Config
from recsys.errors import UserError
from recsys.sharding.document import PlanDocument, check_plan, constraints_of, read_plan
from recsys.sharding.estimate import estimate
from recsys.sharding.plan import plan_tables
from recsys.sharding.topology import machine_at_hand, ranks_per_node
from recsys.sharding.units import show_bytes, show_ms
from recsys.sharding.workload import workload

log = logging.getLogger(__name__)


def agree_on_plan(
    config: Config,
    world: int,
    device: torch.device,
    *,
    given: Path | None = None,
    before: Path | None = None,
) -> PlanDocument:
    """The plan of a job of `world` ranks on `device`s (collective).

    Args:
        config: the experiment.
        world: number of ranks.
        device: of this rank.
        given: a plan's file that the user chose.
        before: the plan of the run that is resumed; used if it was made for these ranks under
            these constraints, so that a resumed run goes on as it began.

    Raises `UserError`, on all ranks alike, if the file does not fit or no plan does.
    """
    answer: list[object] = [None, None]
    if world == 1 or dist.get_rank() == 0:
        try:
            answer[0] = _choose(config, world, device.type, given, before).dump()
        except UserError as error:
            answer[1] = str(error)
        except Exception as error:
            # Told to all, or the other ranks would wait for this one.
            answer[1] = f"sharding: the planner failed: {' '.join(str(error).split())}"
    if world > 1:
        dist.broadcast_object_list(answer, src=0)
    document, fault = answer
    if fault is not None:
        raise UserError(str(fault))
    return PlanDocument.model_validate(document)


def _choose(
    config: Config, world: int, compute: str, given: Path | None, before: Path | None
) -> PlanDocument:
    if given is not None:
        plan = read_plan(given)
        check_plan(plan, config, world, ranks_per_node(world), compute, str(given))
        log.info("plan: as in %s: %s", given, f"{len(plan.tables)} tables: {plan.kinds()}")
        return plan
    if before is not None and (same := _same_as_before(config, world, compute, before)):
        log.info(
            "plan: as the run began, %s: %s", before, f"{len(same.tables)} tables: {same.kinds()}"
        )
        return same
    cluster = machine_at_hand(world, compute)
    planned = plan_tables(config, cluster, workload(config))
    found = estimate(planned)
    plan = planned.document
    log.info(
        "plan: made for %s ranks on %s: %s",
        world,
        compute,
        f"{len(plan.tables)} tables: {plan.kinds()}",
    )
    log.info("      lengths: %s", planned.workload.source)
    for rank in found["ranks"][:8]:
        log.info(
            "      rank %d: %2d shards, %s of tables, estimated %s of lookups and %s of exchange",
            rank["rank"],
            rank["shards"],
            show_bytes(rank["table_bytes"]),
            show_ms(rank["lookup_ms"]),
            show_ms(rank["communication_ms"]),
        )
    if world > 8:
        log.info("      and %d more ranks; plan.json has all", world - 8)
    return plan


def _same_as_before(config: Config, world: int, compute: str, path: Path) -> PlanDocument | None:
    try:
        plan = read_plan(path)
        check_plan(plan, config, world, ranks_per_node(world), compute, str(path))
    except UserError:
        return None  # of other ranks, of other tables, or of an older version
    same = plan.world == world and plan.constraints == constraints_of(config)
    return plan if same else None

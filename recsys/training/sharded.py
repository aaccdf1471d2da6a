"""The model as ranks train it: tables sharded by a plan, everything else data-parallel."""

from pathlib import Path

import torch
from torchrec.distributed.model_parallel import (
    DefaultDataParallelWrapper,
    DistributedModelParallel,
)
from torchrec.distributed.types import ShardingEnv

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.model.lookup import ShardedLookup
from recsys.model.unified import UnifiedModel, build_model
from recsys.sharding.constraints import sharders
from recsys.sharding.document import PlanDocument, sharding_plan
from recsys.sharding.ranks import agree_on_plan
from recsys.training.optimizers import fuse_sparse_optimizer
from recsys.training.ranks import Ranks

# Keeps the random numbers of table shards apart from those of the dense parameters.
TABLE_SEED = 1_000_003


def build_sharded_model(
    config: Config,
    ranks: Ranks,
    plan: PlanDocument | None = None,
    *,
    given: Path | None = None,
    before: Path | None = None,
) -> tuple[DistributedModelParallel, PlanDocument]:
    """Builds the model, shards it and wraps it for training (collective).

    Shards by `plan`, or by the one that `agree_on_plan` reads from the file `given`, keeps from the
    run `before`, or makes.

    The tables are on the meta device until they are sharded, so that no rank ever holds a whole
    one. Dense parameters start equal on all ranks; shards are seeded by rank.
    """
    torch.manual_seed(config.training.seed)
    model = build_model(config, ShardedLookup(Layout(config), device="meta"))
    fuse_sparse_optimizer(model.lookup.parameters(), config.training.sparse)
    if plan is None:
        plan = agree_on_plan(config, ranks.world, ranks.device, given=given, before=before)
    torch.manual_seed(config.training.seed + TABLE_SEED * (1 + ranks.rank))
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(torch.distributed.group.WORLD),
        device=ranks.device,
        plan=sharding_plan(plan, model),
        sharders=sharders(),
        # DDP only where there is someone to average with.
        init_data_parallel=ranks.world > 1,
        # The default wrapper assumes a static graph and crashes on the second step when a tower
        # had no rows. This one leaves a tower that is absent on all ranks without a gradient.
        data_parallel_wrapper=DefaultDataParallelWrapper(
            static_graph=False, find_unused_parameters=True
        ),
    )
    # TorchRec places the tables, and DDP moves what it wraps; on one rank nothing is wrapped.
    sharded.module.to(ranks.device)
    torch.manual_seed(config.training.seed + ranks.rank)
    return sharded, plan


def unlock_cached_rows(model: DistributedModelParallel) -> None:
    """Lets go of the rows that lookups without a backward pass brought into the GPU's caches.

    Where rows may be brought in a batch ahead, FBGEMM locks those of each lookup until its backward
    pass; without one they would stay for good, and leave no room for others.
    """
    for module in model.modules():
        for lookup in getattr(module, "_lookups", ()):  # a plain list: no submodules
            for kernel in lookup.modules():
                locks = getattr(kernel, "lxu_cache_locking_counter", None)
                if isinstance(locks, torch.Tensor):
                    locks.zero_()


def unwrap(model: DistributedModelParallel) -> UnifiedModel:
    """The model inside the wrappers; its forward does not touch DDP."""
    module = model.module
    assert isinstance(module, UnifiedModel)
    return module

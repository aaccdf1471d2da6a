"""Models with random weights, in one process: on plain tensors, and sharded for training."""

import random

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.model.numbers import QUANTILES, NumberTransforms
from recsys.model.unified import Logits, UnifiedModel, build_model
from recsys.training.ranks import Ranks
from recsys.training.sharded import build_sharded_model, unwrap
from tests.model.requests import Request, collate


def draw_weights(model: nn.Module, seed: int) -> None:
    """Draws all weights anew, so that modules that start at zero and statistics take part."""
    generator = torch.Generator().manual_seed(seed)
    # Of their own, so that all else is the same with calibrators and without.
    of_calibrators = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.startswith("calibrators."):
                parameter.copy_(torch.randn(parameter.shape, generator=of_calibrators) * 0.3)
                continue
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for _, module in sorted(model.named_modules()):
            if isinstance(module, NumberTransforms):
                count = len(module.columns)
                for mean, std in ((module.mean, module.std), (module.log_mean, module.log_std)):
                    mean.copy_(torch.randn(count, generator=generator))
                    std.copy_(torch.rand(count, generator=generator) + 0.5)
                drawn = torch.randn(count, QUANTILES, generator=generator)
                module.quantiles.copy_(drawn.sort(dim=1).values)


def plain_model(config: Config, seed: int = 0) -> UnifiedModel:
    """The joint model on ordinary tensors, in evaluation mode, without a zero among its weights."""
    model = build_model(config)
    draw_weights(model, seed)
    return model.eval()


def sharded_model(config: Config, ranks: Ranks, weights: UnifiedModel) -> DistributedModelParallel:
    """The model as it is trained, with the weights of a plain one."""
    model, _ = build_sharded_model(config, ranks)
    copy_weights(weights, model)
    return model


def copy_weights(plain: UnifiedModel, sharded: DistributedModelParallel) -> None:
    """Fills a sharded model from a plain one; a rank takes the shards that it holds."""
    whole = plain.state_dict()
    with torch.no_grad():
        for name, target in sharded.state_dict().items():
            shards = getattr(target, "local_shards", None)
            if shards is None:
                target.copy_(whole[name])
                continue
            for shard in shards():
                rows, columns = shard.metadata.shard_offsets
                height, width = shard.tensor.shape
                shard.tensor.copy_(whole[name][rows : rows + height, columns : columns + width])


def logits_of_candidates(
    model: UnifiedModel, config: Config, requests: list[Request]
) -> dict[int, Tensor]:
    """Logits `[T]` of each candidate, by the identity of its dict: independent of any order."""
    batch = collate(config, requests)
    order = list(config.surfaces)
    rows = sorted(requests, key=lambda request: order.index(request["surface"]))
    shown = [candidate for request in rows for candidate in request["candidates"]]
    with torch.no_grad():
        logits = model(batch).raw
    return {id(candidate): logits[i] for i, candidate in enumerate(shown)}


def uncalibrated(raw: Tensor) -> Logits:
    """What a model without calibrators makes of its logits `[N, T]`."""
    return Logits(raw, raw.detach().double(), raw.detach().double())


def surface_logits(model: UnifiedModel, batch: Batch, surface: str) -> Logits:
    """Logits of a surface's rows through its view."""
    part = batch.of_surface(model.layout.surfaces.index(surface))
    return model.for_surface(surface)(part)


def shuffled(requests: list[Request], seed: int) -> list[Request]:
    """The requests in another order, and the candidates in another order inside each."""
    draw = random.Random(seed)
    requests = [
        {**r, "candidates": draw.sample(r["candidates"], len(r["candidates"]))} for r in requests
    ]
    draw.shuffle(requests)
    return requests


__all__ = [
    "copy_weights",
    "draw_weights",
    "logits_of_candidates",
    "plain_model",
    "sharded_model",
    "shuffled",
    "surface_logits",
    "uncalibrated",
    "unwrap",
]

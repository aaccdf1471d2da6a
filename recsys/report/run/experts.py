"""Which experts each (surface, task) listens to, and which nobody does."""

from typing import Any

import torch
from torch import Tensor, nn

from recsys.model.unified import UnifiedModel
from recsys.report.run.sample import Sample

DEAD_SHARE = 0.1  # of a fair share of 1/E


@torch.inference_mode()
def expert_use(model: UnifiedModel, sample: Sample) -> dict[str, Any]:
    """`{"gates": {surface: {task: [mean weight of each expert]}}, "own": E', "silent", "dead"}`.

    A gate's weights are averaged over the surface's rows of the sample. The last `own` experts of a
    surface are its own (PLE), the others are shared. A shared expert is `silent` if it puts out
    nothing but zeros, and `dead` if it is silent or no cell gives it a tenth of a fair share.
    """
    gates: dict[str, dict[str, list[float]]] = {}
    loudest: Tensor | None = None
    own = 0
    for surface, batches in sample.parts.items():
        view = model.for_surface(surface)
        tower = view.tower_of(surface).tower
        weights: list[Tensor] = []
        outputs: list[Tensor] = []
        layers = view.trunk.layers  # the gates of the tasks mix the experts of the last one
        last = layers[-1].experts if len(layers) else view.trunk.experts
        assert isinstance(last, nn.Module)
        hooks = [_seen(tower.gate, weights), _seen(last, outputs)]
        try:
            for batch in batches:
                view(batch)
        finally:
            for hook in hooks:
                hook.remove()
        mean = torch.cat(weights).double().mean(dim=0)  # [T, E]
        own = mean.shape[1] - view.trunk.experts.count
        mine = sample.layout.config.surfaces[surface].tasks
        gates[surface] = {
            task: mean[t].tolist() for t, task in enumerate(tower.tasks) if task in mine
        }
        loud = torch.cat(outputs).abs().amax(dim=(0, 2))
        loudest = loud if loudest is None else torch.maximum(loudest, loud)
    if loudest is None:
        return {"gates": {}, "own": 0, "silent": [], "dead": []}
    cells = torch.tensor([w for tasks in gates.values() for w in tasks.values()])
    shared = len(loudest)
    silent = (loudest == 0).nonzero().flatten().tolist()
    quiet = cells[:, :shared].amax(dim=0) < DEAD_SHARE / cells.shape[1]
    dead = sorted({*silent, *quiet.nonzero().flatten().tolist()})
    return {"gates": gates, "own": own, "silent": silent, "dead": dead}


def _seen(module: nn.Module, outputs: list[Tensor]) -> Any:
    return module.register_forward_hook(lambda _m, _i, output: outputs.append(output.float()))

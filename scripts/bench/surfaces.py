"""(d) The step time as surfaces are added, the rows and the rest of the model being the same."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.steps import Training, flops, read_batches
from bench.tables import Shape, experiment, write_table
from bench.timing import by_turns, compare, median
from recsys.data.batch import Batch
from recsys.model.unified import UnifiedModel
from recsys.training.ranks import start_ranks

SURFACES = (3, 6, 12, 24)
BATCH = 8_192
MODEL = {
    "sequence": None,
    "projection": {"width": 128},
    "crossing": {"layers": 2, "rank": 32},
    "experts": {"count": 3, "hidden": [256, 128]},
}
TOWER = {"stem": [256, 128], "branches": {"click": [64], "like": [64]}}


def surfaces(rounds: int, batches: int = 4, counts: tuple[int, ...] = SURFACES) -> dict[str, Any]:
    """Steps with 3 to 24 surfaces, and a model that runs every tower on every row."""
    with tempfile.TemporaryDirectory() as folder, start_ranks(60, 1) as ranks:
        runs, every = {}, {}
        for count in counts:
            shape = Shape(BATCH * batches, surfaces=count)
            root = Path(folder) / str(count)
            write_table(root / "train", shape)
            config = experiment(root, shape, model=MODEL, tower=TOWER, batch_candidates=BATCH)
            rows = read_batches(config)
            runs[count] = Training(config, ranks, rows)
            every[count] = Training(config, ranks, rows[:1], every_tower_forward)
            every[count].same_weights(runs[count])
        check_every_tower(runs[counts[0]], every[counts[0]])
        share = tower_share(runs[counts[0]])
        found = by_turns({str(count): run.run for count, run in runs.items()}, rounds)
        control = by_turns({str(count): run.run for count, run in every.items()}, min(rounds, 3))
    first = str(counts[0])
    return {
        "batch_candidates": BATCH,
        "steps": len(rows),
        "towers_share_of_arithmetic_at_3_surfaces": share,
        "step_milliseconds": {
            count: 1e3 * median(seconds).cpu / len(rows) for count, seconds in found.items()
        },
        "over_3_surfaces": {
            count: compare(seconds, found[first]) for count, seconds in found.items()
        },
        "every_tower": {
            "step_milliseconds": {
                count: 1e3 * median(seconds).cpu for count, seconds in control.items()
            },
            "over_3_surfaces": {
                count: compare(seconds, control[first]) for count, seconds in control.items()
            },
        },
    }


def every_tower_forward(model: UnifiedModel, batch: Batch) -> Tensor:
    """The control: each tower on all rows, then each row's own surface is selected."""
    rows = model.lookup(batch)
    trunk = model.trunk(batch, rows)
    logits = [
        model.towers[name].tower(trunk.x, trunk.experts, {})  # type: ignore[union-attr]
        for name in model.layout.surfaces
    ]
    return torch.stack(logits)[batch.surface_index, torch.arange(batch.candidates)]


def check_every_tower(own: Training, every: Training) -> None:
    """Raises if the control computes anything else."""
    [batch] = every.batches
    with torch.no_grad():
        difference = float((own.model(batch).raw - every.model(batch).raw).abs().max())
    if difference > 1e-4:
        raise RuntimeError(f"the logits of the control differ by {difference}")


def tower_share(run: Training) -> float:
    """The towers' share of the floating-point operations of a forward pass."""
    model, [batch, *_] = run.model, run.batches
    with torch.no_grad():
        rows = model.lookup(batch)
        return 1.0 - flops(lambda: model.trunk(batch, rows)) / flops(lambda: model(batch))

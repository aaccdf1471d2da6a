"""(c) Candidates grouped by request against the same rows flattened, one candidate a request."""

import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.steps import Training, largest_difference, read_batches
from bench.tables import Shape, experiment, write_table
from bench.timing import by_turns, compare, speed
from recsys.config import Config
from recsys.data.batch import Batch
from recsys.model.trunk import TrunkOutput
from recsys.model.unified import UnifiedModel
from recsys.training.ranks import start_ranks

CANDIDATES, HISTORY = 12, 50
BATCHES = (2_040, 8_160)  # candidates: whole requests, about 2,048 and 8,192
MODEL = {
    "sequence": {"dim": 64, "layers": 2, "heads": 4, "feedforward": 128},
    "projection": {"sequence": 32, "width": 256},
    "crossing": {"layers": 2, "rank": 64},
    "experts": {"count": 3, "hidden": [256, 128]},
}
TOWER = {"stem": [128], "branches": {"click": [64], "like": [64]}}


def layouts(rounds: int, batches: tuple[int, ...] = BATCHES) -> dict[str, Any]:
    """Steps on grouped rows, on the same rows flattened, and on these by a plain flat model."""
    return {
        "candidates_a_request": CANDIDATES,
        "history": HISTORY,
        **{f"batch_{batch}": compare_layouts(rounds, batch) for batch in batches},
    }


def compare_layouts(rounds: int, batch: int) -> dict[str, Any]:
    """One batch of `batch` candidates, in each of the three ways, from equal weights."""
    shape = Shape(batch // CANDIDATES, CANDIDATES, HISTORY)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_table(root / "grouped", shape)
        write_table(root / "flat", shape, flat=True)

        def config(split: str) -> Config:
            return experiment(
                root, shape, model=MODEL, tower=TOWER, batch_candidates=batch, train=split
            )

        grouped, flat = (read_batches(config(split)) for split in ("grouped", "flat"))
        with start_ranks(60, 1) as ranks:
            runs = {
                "grouped": Training(config("grouped"), ranks, grouped),
                "flat": Training(config("flat"), ranks, flat),
                "plain_flat_model": Training(config("flat"), ranks, flat, plain_flat_forward),
            }
            for each in runs.values():
                each.same_weights(runs["grouped"])
            differences = {
                name: largest_difference(runs["grouped"], runs[name])
                for name in ("flat", "plain_flat_model")
            }
            if max(differences.values()) > 1e-4:
                raise RuntimeError(f"logits differ: {differences}")
            found = by_turns({name: each.run for name, each in runs.items()}, rounds)
    return {
        "largest_logit_difference": max(differences.values()),
        **{name: speed(batch, seconds) for name, seconds in found.items()},
        "flat_over_grouped_time": compare(found["flat"], found["grouped"]),
        "plain_flat_model_over_flat_time": compare(found["plain_flat_model"], found["flat"]),
    }


def plain_flat_forward(model: UnifiedModel, batch: Batch) -> Tensor:
    """The model's forward for one candidate a request by someone who knows only flat rows.

    No request index anywhere: request and candidate features are concatenated and go through one
    linear layer, and each candidate is the only query of its own history.
    """
    rows = model.lookup(batch)
    trunk = plain_flat_trunk(model, batch, rows)
    ends = batch.candidate_offsets
    sizes = [b - a for a, b in pairwise(ends)]
    logits = [
        model.towers[name].tower(x, experts, {})  # type: ignore[union-attr]
        for name, x, experts in zip(
            model.layout.surfaces, trunk.x.split(sizes), trunk.experts.split(sizes), strict=True
        )
    ]
    return torch.cat(logits)


def plain_flat_trunk(model: UnifiedModel, batch: Batch, rows: Mapping[str, Tensor]) -> TrunkOutput:
    """`Trunk.forward` without request-level machinery."""
    trunk = model.trunk
    request = [rows[c.key] for c in trunk.request_ids]
    request += [
        trunk.request_numbers(batch.request_numbers),
        trunk.surface(batch.request_surface_index),
    ]
    candidate = [rows[c.key] for c in trunk.candidate_ids]
    candidate.append(trunk.candidate_numbers(batch.candidate_numbers))
    history = None
    if trunk.history_encoder is not None:
        events = [rows[c.key] for c in trunk.history_ids]
        events.append(trunk.history_numbers(batch.history_numbers))
        history = trunk.history_encoder(
            torch.cat(events, dim=1),
            batch.history_lengths,
            batch.longest_history,
            batch.request_index,
            batch.most_candidates,
        )
        attention = trunk.candidate_attention
        query = attention.query(torch.cat(candidate, dim=1))
        attended = attention.attention(query.unsqueeze(1), history.tokens, history.mask).squeeze(1)
        attended = torch.cat([attended, attended * query], dim=1)
        request.append(trunk.user_projection(history.tokens[:, 0]))
        candidate.append(trunk.attended_projection(attended))
    linear = trunk.projection
    weight = torch.cat([linear.request.weight, linear.candidate.weight], dim=1)
    x = torch.cat([*request, *candidate], dim=1) @ weight.t() + linear.request.bias
    x = trunk.crossing(trunk.projection_norm(x))
    return TrunkOutput(x, trunk.experts(x), history)

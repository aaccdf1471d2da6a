"""(b) `recsys train` against a loop written by hand for the same model."""

import tempfile
from contextlib import nullcontext
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from bench.handwritten import Loop, Model, Rows
from bench.tables import ID_DIM, NUMBERS, TASKS, Shape, experiment, write_table
from bench.timing import Seconds, Stopwatch, by_turns, compare, median, speed
from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.fit import fit
from recsys.data.layout import CANDIDATE_BAGS, REQUEST_BAGS
from recsys.data.reader import Reader
from recsys.model.lookup import table_rows
from recsys.training.ranks import Ranks, start_ranks
from recsys.training.sharded import build_sharded_model, unwrap
from recsys.training.train import Trainer, train

WIDTH, STEM, BATCH = 128, 64, 2048
STEPS_COMPARED = 20
MODEL = {
    "sequence": None,
    "projection": {"width": WIDTH},
    "crossing": None,
    "experts": {"count": 3, "hidden": [256, 128]},
}


def end_to_end(rounds: int, requests: int = 400_000) -> dict[str, Any]:
    """One epoch of `recsys train` – reader, statistics, loop, logs – and one of the loop by hand.

    Start-up, validation and checkpoints are outside the comparison and reported beside it.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_table(root / "train", Shape(requests))
        write_table(root / "valid", Shape(8_192), seed=1)
        config = experiment(
            root, Shape(requests), model=MODEL, tower={"stem": [STEM]}, batch_candidates=BATCH
        )
        with start_ranks(60, 1) as ranks:
            rows = [plain_rows(batch) for batch in Reader(config, "train", batch_candidates=BATCH)]
            equal = same_training(config, ranks, rows)
            loop, direct = Loop(model_of(config)), Loop(model_of(config, width=None))
            rest: list[Seconds] = []
            numbers = count()
            found = by_turns(
                {
                    "recsys": lambda: epoch_of_train(
                        config, root / f"run{next(numbers)}", ranks, rest
                    ),
                    "handwritten": lambda: loop.run(rows),
                    "handwritten, no projection": lambda: direct.run(rows),
                },
                rounds,
            )
    total = sum(len(each.labels) for each in rows)
    return {
        "rows": total,
        "steps": len(rows),
        **equal,
        "recsys": speed(total, found["recsys"]),
        "handwritten": speed(total, found["handwritten"]),
        "handwritten_no_projection": speed(total, found["handwritten, no projection"]),
        "recsys_over_handwritten_time": compare(found["recsys"], found["handwritten"]),
        "seconds_of_train_besides_the_epoch": median(rest[1:]).wall,
    }


def epoch_of_train(config: Config, run: Path, ranks: Ranks, rest: list[Seconds]) -> Seconds:
    """Runs `recsys train`; what its epoch took. Appends to `rest` what all else took."""
    epochs: list[Seconds] = []
    original = Trainer.epoch

    def epoch(self: Trainer, *arguments: Any) -> None:
        with Stopwatch() as watch:
            original(self, *arguments)
        epochs.append(watch.seconds)

    with (
        # A process has one default process group, and the loops by hand need it too.
        patch("recsys.training.train.start_ranks", lambda *_: nullcontext(ranks)),
        patch.object(Trainer, "epoch", epoch),
        Stopwatch() as watch,
    ):
        train(config, run)
    [took] = epochs
    rest.append(Seconds(watch.seconds.cpu - took.cpu, watch.seconds.wall - took.wall))
    return took


def plain_rows(batch: Batch) -> Rows:
    """A batch of one candidate a request as the loop by hand wants it."""
    parts = [batch.sparse[REQUEST_BAGS], batch.sparse[CANDIDATE_BAGS]]
    offsets = batch.candidate_offsets
    return Rows(
        KeyedJaggedTensor(
            keys=[key.partition(".")[2] for part in parts for key in part.keys()],  # noqa: SIM118
            values=torch.cat([part.values() for part in parts]),
            lengths=torch.cat([part.lengths() for part in parts]),
        ),
        torch.cat([batch.request_numbers, batch.candidate_numbers], dim=1),
        batch.surface_index,
        [b - a for a, b in pairwise(offsets)],
        batch.labels,
    )


def model_of(config: Config, width: int | None = WIDTH) -> Model:
    """The model by hand for the benchmark's experiment."""
    tables = {name: table_rows(table) for name, table in config.tables.items()}
    return Model(tables, ID_DIM, 2 * NUMBERS, len(config.surfaces), len(TASKS), width, STEM)


def same_training(config: Config, ranks: Ranks, rows: list[Rows]) -> dict[str, Any]:
    """Checks that both models have as many parameters and, from equal weights, equal losses.

    Trains some steps of each; raises if a loss differs by more than float32 makes it.
    """
    from recsys.training.optimizers import DenseOptimizer, SparseRate, dense_parameters
    from recsys.training.step import Stepper

    model, _ = build_sharded_model(config, ranks)
    unwrap(model).fit_numbers(fit(config).numbers)
    parameters = dense_parameters(model)
    stepper = Stepper(
        model,
        DenseOptimizer(parameters, config.training.dense),
        SparseRate(model, config.training.sparse.lr, "none"),
        config,
        ranks,
    )
    loop = Loop(model_of(config))
    copy_weights(model, loop)
    own, by_hand = (sum(p.numel() for p in x.values()) for x in (parameters, loop.dense))
    if own != by_hand:
        raise RuntimeError(f"{own} dense parameters, {by_hand} by hand: not the same model")
    worst = 0.0
    reader = Reader(config, "train", batch_candidates=BATCH)
    for number, (batch, mine) in enumerate(zip(reader, rows[:STEPS_COMPARED], strict=False)):
        result = stepper.step(batch, stepper.totals(batch, False), number, 0.0)
        worst = max(worst, abs(float(result.loss) - float(loop.run([mine]))))
    reader.close()
    if worst > 1e-4:
        raise RuntimeError(f"losses differ by {worst}: not the same model")
    return {"dense_parameters": own, f"largest_loss_difference_in_{STEPS_COMPARED}_steps": worst}


def copy_weights(model: DistributedModelParallel, loop: Loop) -> None:
    """Gives the loop by hand the weights of `model`."""
    source, target = unwrap(model), loop.model.module
    trunk = source.trunk

    def copy(to: Tensor, value: Tensor) -> None:
        with torch.no_grad():
            to.copy_(value)

    tables = {}
    for name, value in model.state_dict().items():
        if ".embedding_bags." in name:
            tables[name.split(".")[-2]] = value
    for name, value in loop.model.state_dict().items():
        if ".embedding_bags." in name:
            whole = tables[name.split(".")[-2]].local_shards()[0].tensor
            copy(value.local_shards()[0].tensor, whole)
    copy(target.surface.weight, trunk.surface.weight)
    for name in ("mean", "std"):
        fitted = [
            x.get_buffer(f"log_{name}") for x in (trunk.request_numbers, trunk.candidate_numbers)
        ]
        copy(target.get_buffer(name), torch.cat(fitted))
    ids = ID_DIM * len(trunk.request_ids)
    request, candidate = trunk.projection.request.weight, trunk.projection.candidate.weight
    columns = [
        request[:, :ids],
        candidate[:, : ID_DIM * len(trunk.candidate_ids)],
        request[:, ids : ids + NUMBERS],
        candidate[:, ID_DIM * len(trunk.candidate_ids) :],
        request[:, ids + NUMBERS :],
    ]
    linear, norm = target.projection
    copy(linear.weight, torch.cat(columns, dim=1))
    copy(linear.bias, trunk.projection.request.bias)
    norm.load_state_dict(trunk.projection_norm.state_dict())
    target.experts.first.load_state_dict(trunk.experts.first.state_dict())
    copy(target.experts.weight, trunk.experts.weights[0])
    copy(target.experts.bias, trunk.experts.biases[0])
    for mine, tower in zip(target.towers, source.towers.values(), strict=True):
        mine.gate.load_state_dict(tower.tower.gate.linear.state_dict())
        mine.stem.load_state_dict(tower.tower.stem[0].state_dict())
        for head, other in zip(mine.heads, tower.tower.heads.values(), strict=True):
            head.load_state_dict(other.state_dict())

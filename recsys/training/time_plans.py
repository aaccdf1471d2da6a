"""Times training steps under several sharding plans, by turns: one rank of `recsys plan --tune`.

    torchrun --nproc-per-node 2 -m recsys.training.time_plans FOLDER

FOLDER has config.yaml and request.json; the first rank writes answer.json there.
"""

import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recsys.config import Config, load_config
from recsys.data.batch import Batch
from recsys.data.fit import fit
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.errors import RunError, UserError
from recsys.files import write_json
from recsys.sharding.document import PlanDocument
from recsys.training.optimizers import DenseOptimizer, SparseRate, dense_parameters
from recsys.training.ranks import Ranks, start_ranks
from recsys.training.sharded import build_sharded_model, unwrap
from recsys.training.step import Stepper


def time_plans(config: Config, request: dict[str, Any], ranks: Ranks) -> list[list[float]]:
    """Seconds a step, `[plans][rounds]`: the median of the timed steps, of the slowest rank.

    All plans see the same batches, read before. A round takes the plans in an order of its own,
    the same on all ranks; each time the model is built anew, so that memory is that of one.
    """
    statistics_ = fit(config)
    count = request["steps"] + request["warmup"]
    batches = read_batches(config, statistics_, ranks, count)
    plans = [PlanDocument.model_validate(plan) for plan in request["plans"]]
    seconds: list[list[float]] = [[] for _ in plans]
    shuffle = random.Random(config.training.seed)
    for number in range(request["rounds"]):
        order = list(range(len(plans)))
        shuffle.shuffle(order)
        for index in order:
            times = time_plan(config, plans[index], statistics_, batches, ranks)
            slowest = max(ranks.gather(statistics.median(times[request["warmup"] :])))  # type: ignore[type-var]
            seconds[index].append(float(slowest))  # type: ignore[arg-type]
        if ranks.first:
            print(f"round {number + 1} of {request['rounds']}", file=sys.stderr)
    return seconds


def read_batches(config: Config, found: Statistics, ranks: Ranks, count: int) -> list[Batch]:
    """This rank's first batches of the train split, in host memory; repeated if there are fewer."""
    batches = []
    with Reader(
        config,
        "train",
        found,
        rank=ranks.rank,
        world=ranks.world,
        batch_candidates=config.training.batch_candidates,
        pin_memory=ranks.device.type == "cuda",
    ) as reader:
        for batch in reader:
            batches.append(batch)
            if len(batches) == count:
                break
    if not all(ranks.gather(bool(batches))):
        raise UserError("--tune: the train split has no batch for every rank; use more data")
    return [batches[number % len(batches)] for number in range(count)]


def time_plan(
    config: Config, plan: PlanDocument, found: Statistics, batches: list[Batch], ranks: Ranks
) -> list[float]:
    """Seconds of each step of a new model under a plan: forward, backward, both optimizers."""
    model, _ = build_sharded_model(config, ranks, plan)
    unwrap(model).fit_numbers(found.numbers)
    dense = DenseOptimizer(dense_parameters(model), config.training.dense)
    training = config.training
    sparse = SparseRate(model, training.sparse.lr, training.dense.decay)
    stepper = Stepper(model, dense, sparse, config, ranks)
    times = []
    for number, batch in enumerate(batches):
        ranks.gather(None)  # begin together
        started = time.perf_counter()
        totals = stepper.totals(batch, False)
        stepper.step(batch.to(ranks.device, non_blocking=True), totals, number, 0.0)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times


def main(folder: Path) -> None:
    """Reads the request, writes the answer."""
    config = load_config(folder / "config.yaml")
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with start_ranks(config.training.timeout_seconds, config.training.threads) as ranks:
        seconds = time_plans(config, request, ranks)
        if ranks.first:
            write_json(folder / "answer.json", {"seconds": seconds})


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (UserError, RunError) as error:
        print(f"recsys: {error}", file=sys.stderr)
        sys.exit(2)

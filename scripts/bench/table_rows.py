"""(e) The step time with a small and a large embedding table."""

import tempfile
from pathlib import Path
from typing import Any

from bench.end_to_end import MODEL, STEM
from bench.steps import Training, read_batches
from bench.tables import Shape, experiment, write_table
from bench.timing import by_turns, compare, median
from recsys.training.ranks import start_ranks

BATCH = 2_048
ROWS = (1_000_000, 20_000_000)


def table_rows(rounds: int, batches: int = 40, rows: tuple[int, ...] = ROWS) -> dict[str, Any]:
    """Steps whose `user` table has 1M or 20M rows, read at random; all else is equal."""
    with tempfile.TemporaryDirectory() as folder, start_ranks(60, 1) as ranks:
        runs = {}
        for users in rows:
            shape = Shape(BATCH * batches, users=users)
            root = Path(folder) / str(users)
            write_table(root / "train", shape)
            config = experiment(
                root, shape, model=MODEL, tower={"stem": [STEM]}, batch_candidates=BATCH
            )
            runs[str(users)] = Training(config, ranks, read_batches(config))
        found = by_turns({name: run.run for name, run in runs.items()}, rounds)
    small, large = (str(users) for users in rows)
    return {
        "batch_candidates": BATCH,
        "steps": batches,
        "step_milliseconds": {
            name: 1e3 * median(seconds).cpu / batches for name, seconds in found.items()
        },
        "large_over_small": compare(found[large], found[small]),
    }

"""How fast the reader makes batches, next to Arrow decoding the same columns and nothing more.

    python scripts/bench_data.py CONFIG [--set key=value] [--rounds 5] [--elapsed] [--json]

Both run by turns, with one thread each for Arrow and torch. The ratio is the reader's speed over
Arrow's. By default both are held to one core and timed by the CPU time they take, so that the
reader's threads, which overlap, gain nothing. `--elapsed` lets them overlap and times by the clock.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table

from recsys.config import Config, load_config
from recsys.data.fit import fit
from recsys.data.layout import Layout
from recsys.data.reader import Reader
from recsys.data.schema import leaf_columns, projection
from recsys.data.splits import open_split
from recsys.errors import UserError


def arrow_only(config: Config, split_name: str, clock: Callable[[], float]) -> float:
    """Seconds to decode every column that the reader reads into Arrow tables."""
    split = open_split(config, split_name)
    chosen = projection(Layout(config), split, predictions=False, labels=True)
    start = clock()
    for number, file in enumerate(split.files):
        with pq.ParquetFile(split.filesystem.open_input_file(file)) as parquet:
            columns = leaf_columns(parquet, chosen)
            for group in (g for g in split.row_groups if g.file == number):
                parquet.read_row_group(group.index, columns=columns, use_threads=False)
    return clock() - start


def main(
    config: Annotated[str, typer.Argument(help="Configuration; its data.root has the split")],
    split: str = "train",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    elapsed: Annotated[bool, typer.Option("--elapsed", help="All cores, by the clock")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measures the reader against Arrow alone."""
    clock = time.perf_counter if elapsed else time.process_time
    if hasattr(os, "sched_setaffinity") and not elapsed:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    try:
        experiment = load_config(config, overrides or [])
        fitted = fit(experiment)
        arrow, reader, requests, candidates, batches = [], [], 0, 0, 0
        for _ in range(rounds + 1):
            arrow.append(arrow_only(experiment, split, clock))
            source = Reader(
                experiment,
                split,
                fitted,
                batch_candidates=experiment.training.batch_candidates,
            )
            start = clock()
            requests = candidates = batches = 0
            for batch in source:
                requests += batch.requests
                candidates += batch.candidates
                batches += 1
            reader.append(clock() - start)
    except UserError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    ratios = [a / r for a, r in zip(arrow[1:], reader[1:], strict=True)]  # the first warms up
    result = {
        "requests": requests,
        "candidates": candidates,
        "batches": batches,
        "rounds": rounds,
        "arrow_seconds": statistics.median(arrow[1:]),
        "reader_seconds": statistics.median(reader[1:]),
        "candidates_per_second": candidates / statistics.median(reader[1:]),
        "ratio": statistics.median(ratios),
        # The fastest round of each: what other work on the machine disturbs least.
        "ratio_of_fastest": min(arrow[1:]) / min(reader[1:]),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    if as_json:
        print(json.dumps(result))
        return
    table = Table("", "value")
    for name, value in result.items():
        table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

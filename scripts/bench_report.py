"""Time and peak memory of judging predictions of some number of rows and of ten times as many.

    python scripts/bench_report.py [--rows 1000000] [--factor 10] [--memory-limit 1GB] [--json]

Writes synthetic predictions (three surfaces, two tasks, 20 rows a user on average), then runs
`recsys report --predictions` on them as a process of its own and takes the largest resident set
that the system counted. What is looked for is what grows with the rows: beyond DuckDB's limit,
nothing should. Needs about 60 bytes of disk a row, and as much again for sorting.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

SURFACES = np.array(["home", "related", "search"])
TASKS = ("click", "like")
ROWS_A_BATCH = 250_000


def write(folder: Path, rows: int) -> None:
    """Requests of five candidates each; scores that rank well and are off a little."""
    from recsys.evaluation.predictions import PredictionsWriter

    generator = np.random.default_rng(0)
    with PredictionsWriter(folder) as writer:
        for first in range(0, rows, ROWS_A_BATCH):
            index = np.arange(first, min(first + ROWS_A_BATCH, rows))
            request = index // 5
            user = (request * 2_654_435_761) % max(rows // 20, 1)
            batch: dict[str, Any] = {
                "request_id": request,
                "candidate": index % 5,
                "surface": SURFACES[request % 3],
                "time": 1_700_000_000_000 + 86_400_000 * (request % 7),
                "group": user,
                "history_length": (user % 60).astype(np.int32),
            }
            for task in TASKS:
                logit = generator.normal(-2, 1.5, len(index))
                batch[task] = 1 / (1 + np.exp(-logit))
                batch[f"logit.{task}"] = (1.2 * logit).astype(np.float32)
                batch[f"label.{task}"] = (generator.random(len(index)) < batch[task]).astype(float)
            writer.append(batch)


def judge(table: Path, memory: str) -> dict[str, float]:
    """Runs the verb: its seconds and its peak resident set in MiB. Raises if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["report", "--predictions", str(table), "--out", str(table.with_suffix(".html"))]
    command = [sys.executable, "-m", "recsys.cli", *arguments, "--memory-limit", memory]
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), stream) for stream in (1, 2)]
        child = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        seconds = time.monotonic() - began
        if status:
            output.seek(0)
            raise RuntimeError(f"recsys {' '.join(arguments)}: {output.read().decode()[-2_000:]}")
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    processor = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "processor_seconds": processor, "peak_mib": kibibytes / 1024}


def main(
    rows: Annotated[int, typer.Option(help="Of the smaller table.")] = 1_000_000,
    factor: Annotated[int, typer.Option(help="How many times as many the larger one has.")] = 10,
    memory_limit: Annotated[str, typer.Option(help="Of DuckDB.")] = "1GB",
    folder: Annotated[Path | None, typer.Option(help="Where to write. Default: a new one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = []
        for count in (rows, rows * factor):
            table = Path(scratch) / f"rows-{count}"
            write(table, count)
            found.append(
                {"rows": count, "memory_limit": memory_limit, **judge(table, memory_limit)}
            )
    if as_json:
        print(json.dumps(found))
        return
    shown = Table("rows", "seconds", "CPU seconds", "peak MiB", title="recsys report --predictions")
    for each in found:
        numbers = (each["seconds"], each["processor_seconds"], each["peak_mib"])
        shown.add_row(f"{each['rows']:,}", *(f"{number:,.0f}" for number in numbers))
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)

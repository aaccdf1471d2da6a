"""Peak memory of simulating and of training at some rows and at ten times as many.

    python scripts/bench_memory.py [--requests 200000] [--factor 10] [--folder DIR] [--json]

Runs `recsys data simulate` and `recsys train` (one epoch and its validation) as processes of their
own and takes the largest resident set that the system counted for each. What is looked for is what
grows with the rows, so all else is the same. There are users in proportion, or the histories of the
larger log, and its batches with them, would be longer; both trainings have the same small model and
the tables of the larger log. The smaller log must be many windows of the reader (2 row groups of
2,048 requests, of which three may be in memory) and many batches of the validation, or the larger
one only has more chances of a high peak: the default has 40 windows and 80 batches.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

OVERRIDES = (
    "data.shuffle_row_groups=2",
    "model.sequence={dim: 16, layers: 1, heads: 2, feedforward: 16}",
    "model.projection={sequence: 8, width: 32}",
    "model.crossing=null",
    "model.experts={count: 2, hidden: [32]}",
    "training.epochs=1",
    "training.threads=1",
    "evaluation.batch_candidates=1024",
)
SAME = ("--items", "2000")


def peak_megabytes(arguments: list[str]) -> float:
    """Runs `recsys …` and returns its peak resident set in MiB. Raises if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recsys.cli", *arguments]
    with tempfile.TemporaryFile() as output:
        child = os.posix_spawn(
            sys.executable,
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
        )
        _, status, usage = os.wait4(child, 0)
        if status:
            output.seek(0)
            last = output.read().decode(errors="replace")[-2_000:]
            raise RuntimeError(f"recsys {' '.join(arguments)} failed:\n{last}")
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kibibytes / 1024


def measure(folder: Path, requests: int, factor: int, candidates: int) -> dict[str, Any]:
    """Peak memory of both verbs at both sizes."""
    logs = {"1x": requests, f"{factor}x": requests * factor}
    simulating, training = {}, {}
    for name, count in logs.items():
        sizes = ["--requests", str(count), "--candidates", str(candidates), *SAME]
        simulating[name] = peak_megabytes(["data", "simulate", str(folder / name), *sizes])
    config = folder / f"{factor}x" / "config.yaml"
    for name in logs:
        overrides = [f"data.root={folder / name}", *OVERRIDES]
        run = ["--run", str(folder / f"run-{name}")]
        sets = [part for each in overrides for part in ("--set", each)]
        training[name] = peak_megabytes(["train", str(config), *run, *sets])
    return {
        "requests": logs,
        "mean_candidates_a_request": candidates,
        "simulate_mib": simulating,
        "simulate_ratio": simulating[f"{factor}x"] / simulating["1x"],
        "train_mib": training,
        "train_ratio": training[f"{factor}x"] / training["1x"],
    }


def main(
    requests: Annotated[int, typer.Option(min=1, help="Requests of the smaller log")] = 200_000,
    factor: Annotated[int, typer.Option(min=2)] = 10,
    candidates: Annotated[int, typer.Option(min=1, help="Mean of a request")] = 4,
    folder: Annotated[Path | None, typer.Option(help="For the logs; default: temporary")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measures memory."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        result = measure(Path(inside), requests, factor, candidates)
    if as_json:
        print(json.dumps(result))
        return
    table = Table("", "value")
    for name, value in result.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in parts:
            shown = f"{number:,.3f}" if isinstance(number, float) else f"{number:,}"
            table.add_row(f"{name} {part}".strip(), shown)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

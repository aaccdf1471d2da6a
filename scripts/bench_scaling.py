"""How training scales with ranks, what checkpoints cost, and how long it takes to resume.

    python scripts/bench_scaling.py [--only ranks,checkpoints,resume] [--rounds 3]
                                    [--batch 1024] [--quick] [--json]

ranks: candidates/s of two ranks over one, each rank one thread, by turns; besides, of two
trainings at once that know nothing of each other, which is what the machine allows. checkpoints:
the share of training time that one checkpoint a minute takes, in the background and not, with 2 GB
of tables. resume: from the start of the process to the first step, with those tables. All are runs
of `recsys train`, timed by the clock in their own metrics.jsonl: give them the machine to
themselves.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from recsys.processes import environment, python

app = typer.Typer(add_completion=False)

MINUTE = 60.0


def recsys(*arguments: str, world: int = 1) -> dict[str, Any]:
    """Runs a verb as a process, or as several ranks; what it prints, and `process_seconds`."""
    command = python("recsys.cli", *arguments, "--json", ranks=world)
    variables = environment(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout), "began": began, "process_seconds": time.time() - began}


class Bench:
    """Logs and runs in a folder that goes at the end."""

    def __init__(self, folder: Path, rounds: int, batch: int, quick: bool) -> None:
        self.folder, self.rounds, self.batch, self.quick = folder, rounds, batch, quick
        self.logs = self.simulated(2_000 if quick else 25_000)

    def simulated(self, requests: int) -> Path:
        """Logs of so many requests."""
        logs = self.folder / f"logs-{requests}"
        recsys("data", "simulate", str(logs), "--requests", str(requests))
        return logs

    def train(self, *overrides: str, world: int = 1, run: Path | None = None) -> dict[str, Any]:
        """One run; its summary with the run's folder and its log."""
        path = run or self.folder / f"run-{uuid.uuid4()}"
        common = ["training.threads=1", "training.log_every_steps=1", "training.epochs=1"]
        common.append(f"training.batch_candidates={self.batch}")
        sets = [p for o in (*common, *overrides) for p in ("--set", o)]
        config = str(self.logs / "config.yaml")
        found = recsys("train", config, "--run", str(path), "--resume", *sets, world=world)
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return {**found, "path": path, "lines": [x for x in lines if x["event"] == "train"]}

    def speed(self, found: dict[str, Any]) -> float:
        """Candidates/s by the clock, without the first steps, in which memory is allocated."""
        lines = found["lines"]
        first, last = lines[min(5, len(lines) // 4)], lines[-1]
        return (last["candidates"] - first["candidates"]) / (last["time"] - first["time"])

    def ranks(self) -> dict[str, Any]:
        """One rank, two ranks and two trainings by turns, the same candidates a rank and step."""
        speeds: dict[str, list[float]] = {"one_rank": [], "two_ranks": [], "two_trainings": []}

        def measured(world: int) -> float:
            done = self.train(world=world)
            shutil.rmtree(done["path"])
            return self.speed(done)

        for _ in range(self.rounds):
            speeds["one_rank"].append(measured(1))
            speeds["two_ranks"].append(measured(2))
            with ThreadPoolExecutor(2) as both:
                speeds["two_trainings"].append(sum(both.map(measured, (1, 1))))
        result: dict[str, Any] = {"batch_candidates": self.batch}
        for name, found in speeds.items():
            ratios = [each / one for one, each in zip(speeds["one_rank"], found, strict=True)]
            result[name] = {
                "candidates_per_second": statistics.median(found),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        return result

    @property
    def large(self) -> list[str]:
        """2 GB of tables, optimizer state besides."""
        rows = 1_000_000 if self.quick else 31_250_000
        return [f"tables.user.rows={rows}"]

    def checkpoints(self) -> dict[str, Any]:
        """The share of the time that training waits for checkpoints, at one a minute.

        What a checkpoint takes from training is its waits and what the background takes from the
        steps meanwhile. Both are measured: candidates/s with checkpoints at a known interval over
        candidates/s without any, by turns; then scaled to one a minute.
        """
        shares: dict[str, list[float]] = {"async": [], "sync": []}
        waits: dict[str, list[float]] = {"async": [], "sync": []}
        writes: dict[str, list[float]] = {"async": [], "sync": []}
        size = 0
        # Far enough apart that none waits for the one before, and long enough for several.
        every = 5 if self.quick else 150
        if not self.quick:
            self.logs = self.simulated(75_000)
        for _ in range(self.rounds):
            plain = self.train(*self.large)
            rate = self.speed(plain)
            shutil.rmtree(plain["path"])
            for name in ("async", "sync"):
                saving = [f"training.checkpoint.every_steps={every}", "training.checkpoint.keep=1"]
                mode = f"training.checkpoint.async={str(name == 'async').lower()}"
                done = self.train(*self.large, *saving, mode)
                cost = done["checkpoints"]
                lines = done["lines"]
                count = lines[-1]["step"] // every
                # Seconds that the steps would have taken, and took.
                candidates = lines[-1]["candidates"] - lines[0]["candidates"]
                lost = (lines[-1]["time"] - lines[0]["time"]) - candidates / rate
                shares[name].append(lost / max(1, count) / MINUTE)
                waits[name].append(cost["waited_seconds"] / cost["count"])
                writes[name].append(cost["writing_seconds"] / cost["count"])
                size = cost["bytes"] // cost["count"]
                shutil.rmtree(done["path"])
        found: dict[str, Any] = {"bytes": size}
        for name in ("async", "sync"):
            found[name] = {
                "share_at_one_a_minute": statistics.median(shares[name]),
                "share_min": min(shares[name]),
                "share_max": max(shares[name]),
                "waited_seconds_each": statistics.median(waits[name]),
                "writing_seconds_each": statistics.median(writes[name]),
            }
        return found

    def resume(self) -> dict[str, Any]:
        """Seconds from the start of the process to the first step, new and resumed."""
        seconds: dict[str, list[float]] = {"new": [], "resumed": []}
        for _ in range(self.rounds):
            first = self.train(*self.large)
            seconds["new"].append(first["lines"][0]["time"] - first["began"])
            steps = len(first["lines"])
            again = self.train(*self.large, "training.epochs=2", run=first["path"])
            seconds["resumed"].append(again["lines"][steps]["time"] - again["began"])
            shutil.rmtree(first["path"])
        return {f"{name}_seconds": statistics.median(found) for name, found in seconds.items()}


def print_results(results: dict[str, Any]) -> None:
    for part, result in results.items():
        table = Table("", "value", title=part)
        flat = [
            (f"{key}.{inner}" if inner else key, value)
            for key, found in result.items()
            for inner, value in (found.items() if isinstance(found, dict) else [("", found)])
        ]
        for name, value in flat:
            table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
        Console().print(table)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Parts, by commas")] = "ranks,checkpoints,resume",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Candidates of a rank's step")] = 1024,
    quick: Annotated[bool, typer.Option("--quick", help="Small: checks that all runs")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measures scaling, checkpoints and resuming."""
    names = [name for name in only.split(",") if name]
    if unknown := [name for name in names if name not in ("ranks", "checkpoints", "resume")]:
        print(f"--only {only}: no part {unknown[0]}", file=sys.stderr)
        raise typer.Exit(2)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rounds, batch, quick)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "ranks": bench.ranks,
            "checkpoints": bench.checkpoints,
            "resume": bench.resume,
        }
        for name in names:
            load = os.getloadavg()[0]
            found = parts[name]()
            results[name] = {"rounds": rounds, **found, "load_before": load}
            print(f"{name}: {json.dumps(results[name])}", file=sys.stderr)
    if as_json:
        print(json.dumps(results))
    else:
        print_results(results)


if __name__ == "__main__":
    app()

"""Exports of runs with hardly trained weights, their sizes, and the latency of single requests."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.tables import Shape, experiment, surface_name, write_table
from recsys.config import Config
from recsys.config.export import Recipe
from recsys.data.batch import Batch
from recsys.data.reader import Reader
from recsys.data.splits import open_table
from recsys.data.statistics import Statistics
from recsys.evaluation.score import load_model
from recsys.export.aot import load_compiled
from recsys.export.artefact import COMPILED, PROGRAM, WEIGHTS, Artefact
from recsys.export.export import export
from recsys.export.program import load_program
from recsys.run_directory import RunDirectory
from recsys.training.train import train

ENOUGH_SECONDS, LEAST_CALLS = 30.0, 10
HISTORY = 500  # the longest that is measured
SURFACE = surface_name(0)
MODEL: dict[str, Any] = {
    "sequence": {"dim": 64, "layers": 2, "heads": 4, "feedforward": 128},
    "projection": {"sequence": 32, "width": 256},
    "crossing": {"layers": 2, "rank": 64},
    "experts": {"count": 3, "hidden": [256, 128]},
}
TOWER = {"stem": [128], "branches": {"click": [64]}}
# Weights that learned nothing from random labels: metrics say nothing about quantisation here.
LIMITS = ["export.limits.auc=1", "export.limits.ne=1", "export.limits.probability=1e-5"]
Call = Callable[[], object]


def make_run(folder: Path, surfaces: int, only: str | None = None) -> RunDirectory:
    """A run of a few steps on `surfaces` surfaces, or on one of them alone."""
    shape = Shape(surfaces * 8, candidates=8, history=50, surfaces=surfaces)
    for split in ("train", "valid", "test"):
        if not (folder / "data" / split).exists():
            write_table(folder / "data" / split, shape)
    longest = Shape(surfaces * 8, candidates=8, history=HISTORY, surfaces=surfaces)
    config = experiment(folder / "data", longest, model=MODEL, tower=TOWER, batch_candidates=512)
    document = config.model_dump(mode="json", by_alias=True)
    document["data"]["surfaces"] = None if only is None else [only]
    document["training"]["epochs"] = 1
    path = folder / (only or "joint")
    train(Config.model_validate(document), path)
    return RunDirectory(path)


def export_of(run: RunDirectory, out: Path, surface: str = SURFACE, **recipe: Any) -> Artefact:
    return Artefact(export(run, surface, out, Recipe(**recipe), overrides=LIMITS).path)


def size_of(artefact: Artefact, name: str = PROGRAM) -> int:
    return int(artefact.manifest["files"][name]["bytes"])


def sizes(run: RunDirectory, artefacts: Mapping[str, Artefact], out: Path) -> dict[str, Any]:
    """Bytes of programs against the checkpoint that they come from, and of all surfaces'."""
    whole = artefacts["fp32"].manifest["source"]["checkpoint_bytes"]
    tables = sum(
        4 * (table.rows + 1) * table.dim for table in artefacts["fp32"].config.tables.values()
    )
    # All but the tables is the same in every precision.
    rest = size_of(artefacts["fp32"]) - tables
    found: dict[str, Any] = {"checkpoint_bytes": whole}
    for name in ("fp32", "fp16", "int8"):
        size = size_of(artefacts[name])
        found[name] = {"bytes": size, "of_checkpoint": size / whole}
        found[name]["tables_of_fp32"] = (size - rest) / tables
    [dim] = {table.dim for table in artefacts["fp32"].config.tables.values()}
    found["int8"]["expected"] = (dim + 4) / (4 * dim)
    found["fp32"]["weights_bytes"] = size_of(artefacts["fp32"], WEIGHTS)
    every = [export_of(run, out, surface) for surface in run.config.surfaces]
    found["sum_of_all_of_checkpoint"] = sum(map(size_of, every)) / whole
    return found


@dataclass(frozen=True)
class Request:
    """One request as a table, of `candidates` candidates after `history` events."""

    candidates: int
    history: int

    def table(self, folder: Path, flat: bool = False) -> str:
        shape = Shape(1, candidates=self.candidates, history=self.history, surfaces=1)
        path = folder / f"{self.candidates}-{self.history}-{flat}"
        if not path.exists():
            write_table(path, shape, flat=flat)
        return str(path)

    def batch(self, config: Config, statistics: Statistics, folder: Path, flat: bool) -> Batch:
        """Flat: each candidate is a request of its own, with the history written again."""
        [batch] = Reader(
            config,
            open_table(self.table(folder, flat)),
            statistics,
            shuffle=False,
            batch_candidates=self.candidates,
            labels=False,
        )
        return batch


def contestants(
    run: RunDirectory,
    artefacts: Mapping[str, Artefact],
    request: Request,
    folder: Path,
) -> dict[str, Call]:
    """Name → one scoring of the request, its encoding left out."""
    model = load_model(run, run.config)
    joint = request.batch(run.config, Statistics.load(run.statistics), folder, False)
    calls: dict[str, Call] = {"joint_eager": lambda: model(joint)}
    for name, artefact in artefacts.items():
        batch = request.batch(artefact.config, artefact.statistics, folder, False)
        inputs = artefact.signature.tensors(batch)
        calls[name] = _call(artefact.program, inputs)
        if name == "fp32":
            view = artefact.model()
            calls["view_eager"] = lambda view=view, batch=batch: view(batch)
            flat = request.batch(artefact.config, artefact.statistics, folder, True)
            calls["flattened"] = _call(artefact.program, artefact.signature.tensors(flat))
            unchecked = load_program(artefact.path / PROGRAM)
            unchecked.validate_inputs = False
            calls["unchecked"] = _call(unchecked, inputs)
            if artefact.recipe.aot:
                calls["aot"] = _call(load_compiled(artefact.path / COMPILED), inputs)
    return calls


def _call(program: Callable[..., object], inputs: Mapping[str, torch.Tensor]) -> Call:
    return lambda: program(**inputs)


def latencies(calls: Mapping[str, Call], candidates: int, repeats: int) -> dict[str, Any]:
    """Each called by turns, `repeats` times: p50 and p99 by the clock, and of CPU time.

    What has taken `ENOUGH_SECONDS` in `LEAST_CALLS` or more is not called again.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    with torch.inference_mode():
        for number in range(repeats + 2):
            for name, call in calls.items():
                spent = [took for took, _ in seconds[name]]
                if len(spent) >= LEAST_CALLS and sum(spent) > ENOUGH_SECONDS:
                    continue
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                took = time.perf_counter() - wall, time.process_time() - cpu
                if number >= 2:  # before, memory is taken
                    seconds[name].append(took)
    found = {}
    for name, values in seconds.items():
        wall_times, cpu_times = np.array(values).T * 1000
        p50, p99 = np.quantile(wall_times, [0.5, 0.99])
        cpu50, cpu99 = np.quantile(cpu_times, [0.5, 0.99])
        found[name] = {
            "calls": len(values),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "cpu_p50_ms": float(cpu50),
            "cpu_p99_ms": float(cpu99),
            "candidates_per_second": 1000 * candidates / float(cpu50),
        }
    return found


def ratios(found: Mapping[str, Any], pairs: Mapping[str, tuple[str, str]]) -> Iterator[Any]:
    """(name, CPU time of the first over the second, p50 and p99) of those that were measured."""
    for name, (first, second) in pairs.items():
        if first in found and second in found:
            a, b = found[first], found[second]
            yield (
                name,
                {
                    "p50": a["cpu_p50_ms"] / b["cpu_p50_ms"],
                    "p99": a["cpu_p99_ms"] / b["cpu_p99_ms"],
                },
            )

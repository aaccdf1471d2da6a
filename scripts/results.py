"""Trains variants of an experiment over several seeds and prints their test metrics as a table.

    python scripts/results.py studies/kuairand.yaml --out results/kuairand [--only NAME …] [--json]

A study names a config and its variants:

    config: configs/kuairand.yaml
    set: [data.root=data/kuairand]              # overrides of every variant
    seeds: [1, 2, 3]
    split: test
    variants:
      joint: {}
      history off: {set: [model.sequence=null]}
      two ranks: {ranks: 2, set: [training.batch_candidates=256]}
      one model per surface: {each_surface: true}   # a model a surface, judged together

Runs that are complete are not repeated. Every choice belongs to the valid split: this script only
reports. Each run is `recsys train` and `recsys evaluate`; metrics are of the latter's predictions.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

METRICS = ("auc", "ne")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def call(arguments: list[str], ranks: int = 1) -> str:
    """Runs `recsys …`, one thread a rank, and returns its stdout; raises with its stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    # `--`: torchrun would take --run for an abbreviation of an option of its own.
    module = [*launcher, "-m", "--", "recsys.cli"] if ranks > 1 else ["-m", "recsys.cli"]
    command = [sys.executable, *module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"recsys {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Run:
    """One training run of a study."""

    config: str
    overrides: tuple[str, ...]
    folder: Path
    ranks: int
    split: str

    @property
    def result(self) -> Path:
        return self.folder / f"{self.split}.json"

    def metrics(self) -> dict[str, Any]:
        """Its metrics; trains and evaluates it unless that is done."""
        if not self.result.is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            flags = [flag for each in self.overrides for flag in ("--set", each)]
            call(["train", self.config, "--run", str(self.folder), *flags, "--json"], self.ranks)
            printed = call(["evaluate", str(self.folder), "--split", self.split, "--json"])
            self.result.write_text(printed)
        return json.loads(self.result.read_text())


def runs_of(study: dict[str, Any], out: Path) -> dict[str, list[list[Run]]]:
    """Variant → for each seed, the runs that are judged together."""
    surfaces = list(yaml.safe_load(Path(study["config"]).read_text())["surfaces"])
    found: dict[str, list[list[Run]]] = {}
    for name, variant in study["variants"].items():
        for seed in study["seeds"]:
            common = (*study["set"], *variant.get("set", ()), f"training.seed={seed}")
            parts = {"": common}
            if variant.get("each_surface"):
                parts = {f"{s}-": (*common, f"data.surfaces=[{s}]") for s in surfaces}
            found.setdefault(name, []).append(
                [
                    Run(
                        study["config"],
                        overrides,
                        out / slug(name) / f"{part}seed{seed}",
                        variant.get("ranks", 1),
                        study["split"],
                    )
                    for part, overrides in parts.items()
                ]
            )
    return found


def judge(runs: list[Run]) -> dict[str, Any]:
    """Metrics of the predictions of several runs together."""
    from recsys.evaluation.predictions import evaluate_predictions

    if len(runs) == 1:
        return runs[0].metrics()
    with tempfile.TemporaryDirectory() as together:
        for number, run in enumerate(runs):
            for part in (run.folder / "predictions" / run.split).glob("*.parquet"):
                shutil.copy(part, Path(together) / f"{number}-{part.name}")
        return evaluate_predictions(together)


def cells(metrics: dict[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """(surface or "all", task) → metrics."""
    found = {("all", task): values for task, values in metrics["all"]["tasks"].items()}
    for surface, values in metrics["surfaces"].items():
        for task, each in values["tasks"].items():
            found[surface, task] = each
    return found


def table(results: dict[str, list[dict[str, Any]]], metric: str) -> str:
    """Markdown: a row a variant, a column a (surface, task); mean ± standard deviation."""
    every = [cells(metrics) for runs in results.values() for metrics in runs]
    columns = [
        key for key in every[0] if any(c.get(key, {}).get(metric) is not None for c in every)
    ]
    lines = [
        "| variant | " + " | ".join(f"{s} {t}" for s, t in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, runs in results.items():
        row = []
        for key in columns:
            values = [v for m in runs if (v := cells(m).get(key, {}).get(metric)) is not None]
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            row.append(f"{mean(values):.4f}{spread}" if values else "–")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    study = {"set": [], "split": "test", **yaml.safe_load(options.study.read_text())}
    if options.only:
        study["variants"] = {name: study["variants"][name] for name in options.only}
    study["set"] = [*study["set"], *options.overrides]
    variants = runs_of(study, options.out)
    every = [run for seeds in variants.values() for runs in seeds for run in runs]
    with ThreadPoolExecutor(options.workers) as pool:
        for done in [pool.submit(run.metrics) for run in every]:
            done.result()
    results = {name: [judge(runs) for runs in seeds] for name, seeds in variants.items()}
    if options.json:
        print(json.dumps(results))
        return
    for metric in METRICS:
        print(f"\n{metric.upper()}, {study['split']} split, mean of {len(study['seeds'])} seeds\n")
        print(table(results, metric))


if __name__ == "__main__":
    main()

"""Trains variants of an experiment over several seeds and prints their test metrics as a table.

    python scripts/results.py STUDY.yaml --out results/ [--workers 2] [--only NAME …] [--json]

A study names a config and its variants; each variant is a list of `--set` overrides:

    config: configs/kuairand.yaml
    overrides: [data.root=data/kuairand]        # of every variant
    seeds: [1, 2, 3]
    split: test
    variants:
      joint: []
      history off: [model.sequence=null]
      one model per surface: {each_surface: []}   # a model a surface, judged together

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

RECSYS = [sys.executable, "-m", "recsys.cli"]
METRICS = ("auc", "ne")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def call(arguments: list[str]) -> str:
    """Runs `recsys …` on one thread and returns its stdout; raises with its stderr if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*RECSYS, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"recsys {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def run_one(config: str, overrides: list[str], split: str, run: Path) -> dict[str, Any]:
    """Metrics of one run on `split`; trains it unless that is done."""
    found = run / f"{split}.json"
    if not found.is_file():
        shutil.rmtree(run, ignore_errors=True)
        flags = [flag for each in overrides for flag in ("--set", each)]
        call(["train", config, "--run", str(run), *flags, "--json"])
        found.write_text(call(["evaluate", str(run), "--split", split, "--json"]))
    return json.loads(found.read_text())


def jobs_of(
    study: dict[str, Any], out: Path
) -> list[tuple[str, int, list[tuple[Path, list[str]]]]]:
    """(variant, seed, its runs with their overrides) of a study."""
    jobs = []
    surfaces = list(yaml.safe_load(Path(study["config"]).read_text())["surfaces"])
    for name, variant in study["variants"].items():
        for seed in study["seeds"]:
            each = isinstance(variant, dict)
            own = variant["each_surface"] if each else variant
            common = [*study.get("overrides", []), *own, f"training.seed={seed}"]
            folder = out / slug(name)
            if each:
                runs = [
                    (folder / f"{surface}-seed{seed}", [*common, f"data.surfaces=[{surface}]"])
                    for surface in surfaces
                ]
            else:
                runs = [(folder / f"seed{seed}", common)]
            jobs.append((name, seed, runs))
    return jobs


def judge(runs: list[Path], split: str) -> dict[str, Any]:
    """Metrics of the predictions of several runs together."""
    from recsys.evaluation.predictions import evaluate_predictions

    if len(runs) == 1:
        return json.loads((runs[0] / f"{split}.json").read_text())
    together = runs[0].parent / f".together-{runs[0].name}"
    shutil.rmtree(together, ignore_errors=True)
    together.mkdir()
    for number, run in enumerate(runs):
        for part in (run / "predictions" / split).glob("*.parquet"):
            shutil.copy(part, together / f"{number}-{part.name}")
    try:
        return evaluate_predictions(together)
    finally:
        shutil.rmtree(together)


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
    study = yaml.safe_load(options.study.read_text())
    if options.only:
        study["variants"] = {name: study["variants"][name] for name in options.only}
    study["overrides"] = [*study.get("overrides", []), *options.overrides]
    split = study.get("split", "test")
    jobs = jobs_of(study, options.out)
    with ThreadPoolExecutor(options.workers) as pool:
        started = [
            pool.submit(run_one, study["config"], overrides, split, run)
            for _, _, runs in jobs
            for run, overrides in runs
        ]
        for done in started:
            done.result()
    results: dict[str, list[dict[str, Any]]] = {}
    for name, _, runs in jobs:
        results.setdefault(name, []).append(judge([run for run, _ in runs], split))
    if options.json:
        print(json.dumps(results))
        return
    for metric in METRICS:
        print(f"\n{metric.upper()}, {split} split, mean of {len(study['seeds'])} seeds\n")
        print(table(results, metric))


if __name__ == "__main__":
    main()

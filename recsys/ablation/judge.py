"""Metrics of variants over seeds, and their differences from the first one."""

import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.dataset import dataset
from scipy import stats

from recsys.ablation.runs import Run

METRICS = ("auc", "ne", "pcoc", "field_ece")
COMPOSED = ("auc", "ne")  # of which is asked whether parts gain more together than apart
CONFIDENCE = 0.95

Cell = tuple[str, str]  # (surface or "all", task)
# Variant → for each seed, the value of each cell.
Values = dict[str, list[dict[Cell, float]]]


def judge(runs: list[Run]) -> dict[str, Any]:
    """Metrics of the predictions of the runs of one seed, together."""
    from recsys.evaluation.predictions import evaluate_predictions

    if len(runs) == 1:
        return runs[0].metrics()
    files = [str(part) for run in runs for part in sorted(run.predictions.glob("*.parquet"))]
    # A surface's table lacks the tasks of the others: null here.
    schema = pa.unify_schemas([pq.read_schema(file) for file in files])
    with tempfile.TemporaryDirectory() as together:
        with pq.ParquetWriter(Path(together) / "part-0.parquet", schema) as writer:
            for batch in dataset(files, schema=schema).to_batches():
                writer.write_batch(batch)
        return evaluate_predictions(together, fields=["surface"])


def cells(metrics: dict[str, Any], metric: str) -> dict[Cell, float]:
    """One metric of each (surface, task) and of all surfaces together, where it has a value.

    Field-ECE is that by surface.
    """
    if metric == "field_ece":
        by_surface = metrics.get(metric, {}).get("surface", {})
        return {("all", task): value for task, value in by_surface.items() if value is not None}
    found = {("all", task): values for task, values in metrics["all"]["tasks"].items()}
    for surface, values in metrics["surfaces"].items():
        for task, each in values["tasks"].items():
            found[surface, task] = each
    return {cell: each[metric] for cell, each in found.items() if each.get(metric) is not None}


def summarise(judged: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A document of every variant's metrics.

    Returns:
        `{"variants": {name: {metric: [{"surface", "task", "mean", "sd", "seeds", "difference":
        {"mean", "low", "high"} | null}]}}, "composition": [{"logs", "metric", "task", "mixture",
        "history", "apart", "together", "more_than_apart"}]}`. A difference is from the first
        variant, paired by seed; its interval is Student's t over seeds, null with one seed. So are
        the intervals of the composition.
    """
    variants: dict[str, Any] = {}
    composition: list[dict[str, Any]] = []
    for metric in METRICS:
        values: Values = {
            name: [cells(metrics, metric) for metrics in seeds] for name, seeds in judged.items()
        }
        base = next(iter(values.values()))
        for name, seeds in values.items():
            variants.setdefault(name, {})[metric] = [
                _line(cell, [seed.get(cell) for seed in seeds], [seed.get(cell) for seed in base])
                for cell in dict.fromkeys(cell for seed in (*base, *seeds) for cell in seed)
            ]
        if metric in COMPOSED:
            composition += _composition(values, metric)
    return {"variants": variants, "composition": composition}


def _line(cell: Cell, own: list[float | None], base: list[float | None]) -> dict[str, Any]:
    known = [value for value in own if value is not None]
    pairs = [a - b for a, b in zip(own, base, strict=True) if a is not None and b is not None]
    return {
        "surface": cell[0],
        "task": cell[1],
        "mean": mean(known) if known else None,
        "sd": stdev(known) if len(known) > 1 else None,
        "seeds": len(known),
        "difference": interval(pairs) if pairs else None,
    }


def interval(pairs: list[float]) -> dict[str, float | None]:
    """The mean of paired differences and its 95 % interval by Student's t; none with one pair."""
    if len(pairs) == 1:
        return {"mean": pairs[0], "low": None, "high": None}
    middle, half = mean(pairs), 0.0
    if (spread := stdev(pairs)) > 0:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1))
        half = quantile * spread / len(pairs) ** 0.5
    return {"mean": middle, "low": middle - half, "high": middle + half}


def _composition(values: Values, metric: str) -> list[dict[str, Any]]:
    """Whether the mixture and the history gain more together than apart.

    `together = both − bottom`, `apart = (mixture − bottom) + (history − bottom)`, of all surfaces;
    on the merged logs, on each surface's alone, and how much more it is on the merged logs.
    """
    gains = {
        where: found
        for where, prefix in (("merged logs", ""), ("a model a surface", "a model a surface: "))
        if (found := _gains(values, prefix))
    }
    if len(gains) > 1:
        merged, alone = gains.values()
        gains["merged − alone"] = {
            cell: [
                {name: value - other[name] for name, value in one.items()}
                for one, other in zip(merged[cell], alone[cell], strict=True)
            ]
            for cell in merged
            if cell in alone
        }
    return [
        {
            "logs": where,
            "metric": metric,
            "task": cell[1],
            **{name: interval([seed[name] for seed in seeds]) for name in seeds[0]},
        }
        for where, found in gains.items()
        for cell, seeds in found.items()
    ]


def _gains(values: Values, prefix: str) -> dict[Cell, list[dict[str, float]]]:
    """Cell of all surfaces → for each seed, what the parts gain over the bottom."""
    names = [prefix + part for part in ("MMoE + history", "shared bottom", "MMoE", "history")]
    if not all(name in values for name in names):
        return {}
    seeds = list(zip(*(values[name] for name in names), strict=True))
    found: dict[Cell, list[dict[str, float]]] = {}
    for cell in seeds[0][0]:
        if cell[0] != "all" or not all(cell in each for seed in seeds for each in seed):
            continue
        for seed in seeds:
            both, bottom, mixture, history = (each[cell] for each in seed)
            apart = (mixture - bottom) + (history - bottom)
            found.setdefault(cell, []).append(
                {
                    "mixture": mixture - bottom,
                    "history": history - bottom,
                    "apart": apart,
                    "together": both - bottom,
                    "more_than_apart": both - bottom - apart,
                }
            )
    return found

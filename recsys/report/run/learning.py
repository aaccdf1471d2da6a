"""Learning curves of every (surface, task), from metrics.jsonl."""

import json
from typing import Any

from recsys.errors import UserError
from recsys.run_directory import RunDirectory

POINTS = 200  # of a curve; longer ones are averaged
VALID = ("logloss", "ne", "auc", "pcoc")


def learning_curves(run: RunDirectory) -> dict[str, Any] | None:
    """`{"train": [{"step", "loss", "cells"}], "valid": [{"step", "epoch", "surfaces", "all"}]}`.

    `cells` has the mean loss of each (surface, task) since the point before. None without a log.
    Raises `UserError` for a line that is not JSON, unless it is the last, which a crash cut off.
    """
    if not run.metrics.is_file():
        return None
    train, valid = [], []
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise UserError(f"{run.metrics}: line {number} is not JSON; remove that line") from None
        if record.get("event") == "train":
            train.append({name: record.get(name) for name in ("step", "loss", "cells")})
        elif record.get("event") == "valid":
            valid.append(
                {
                    "step": record["step"],
                    "epoch": record.get("epoch"),
                    "surfaces": {
                        surface: {task: _some(values) for task, values in found["tasks"].items()}
                        for surface, found in record["surfaces"].items()
                    },
                    "all": {task: _some(values) for task, values in record["all"]["tasks"].items()},
                }
            )
    if not train and not valid:
        return None
    return {"train": _thinned(train), "valid": valid, "best_step": _best_step(run)}


def _some(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values.get(name) for name in VALID}


def _best_step(run: RunDirectory) -> int | None:
    try:
        found = json.loads((run.checkpoints / "best.json").read_text(encoding="utf-8"))
        return int(found["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _thinned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `POINTS` records, each the mean of some successive ones."""
    width = -(-len(records) // POINTS)
    if width <= 1:
        return records
    return [_mean(records[at : at + width]) for at in range(0, len(records), width)]


def _mean(records: list[dict[str, Any]]) -> dict[str, Any]:
    cells: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for surface, tasks in (record["cells"] or {}).items():
            for task, loss in tasks.items():
                if loss is not None:
                    cells.setdefault(surface, {}).setdefault(task, []).append(loss)
    losses = [record["loss"] for record in records if record["loss"] is not None]
    return {
        "step": records[-1]["step"],
        "loss": sum(losses) / len(losses) if losses else None,
        "cells": {
            surface: {task: sum(values) / len(values) for task, values in tasks.items()}
            for surface, tasks in cells.items()
        },
    }

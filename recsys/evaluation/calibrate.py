"""`recsys calibrate`: refits a run's calibrators alone, on fresh data."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recsys.config import Config, dump_config, load_config
from recsys.data.splits import open_table
from recsys.errors import UserError
from recsys.evaluation.metrics import Metrics, task_metrics, weights
from recsys.evaluation.score import Scorer
from recsys.files import whole_folder, write_json, write_text
from recsys.model.calibration import (
    EVERY_SURFACE,
    SPREAD,
    Calibrator,
    build_calibrator,
    build_calibrators,
)
from recsys.model.named import module_name
from recsys.model.unified import UnifiedModel
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.checkpoint.replace import write_replaced
from recsys.training.optimizers import CALIBRATORS
from recsys.training.refit import refit, why_not

KINDS = ("platt", "isotonic", "global")
MODEL, STATE = "model.", "dense."  # before the names of weights and of their optimizer's state
SHOWN = ("ne", "pcoc", "ece")


@dataclass(frozen=True)
class Rows:
    """Scored rows of a table."""

    raw: Tensor  # [N, T]
    probability: Tensor  # [N, T], by the calibrators that the run has
    labels: Tensor  # [N, T], NaN where unknown
    surface_index: Tensor  # [N]

    def cell(self, t: int, s: int | None) -> Tensor:
        """`[N]`, the rows with a known label of task t, of surface number s or of all."""
        known = ~self.labels[:, t].isnan()
        return known if s is None else known & (self.surface_index == s)

    def known(self, t: int, s: int | None) -> tuple[Tensor, Tensor]:
        """Raw logits and labels of these rows, both `[n]`."""
        cell = self.cell(t, s)
        return self.raw[cell, t].clone(), self.labels[cell, t].clone()


def calibrate(
    run: RunDirectory,
    data: str,
    kind: str | None = None,
    out: Path | None = None,
    *,
    spread: float = SPREAD,
    scored_by: RunDirectory | None = None,
) -> dict[str, Any]:
    """Writes a new run directory whose best checkpoint differs from `run`'s in calibrators alone.

    Args:
        run: it is not changed.
        data: a labelled request table that the model was not trained on, or `scored_by` was not.
        kind: platt, isotonic or global; by default the run's own, or platt if it has none.
        out: the new run directory; `RUN-calibrated` by default.
        spread: how far a surface's calibrator lies from that of all surfaces, in logits (see
            `recsys.training.refit`); infinite: each is fitted by itself.
        scored_by: the run whose scores are fitted, by default `run`. For a model that was
            retrained on every row: one of the same configuration that has not seen `data`.

    Returns `{"run", "out", "checkpoint", "data", "scored_by", "kind", "spread", "cells": {S: {T:
    {"status", "rows", "positives", "before", "after"}}}}`, which is also its `calibration.json`.
    Metrics are on the rows that were fitted. A cell with nothing to fit on keeps its calibrator,
    and its status says why. Raises `UserError` for wrong input; then nothing is written.
    """
    found = checkpoint.best(run.checkpoints)
    if found is None:
        raise UserError(f"{run.checkpoints}: no complete checkpoint; finish or resume the training")
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind {kind}: is {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if not spread > 0:
        raise UserError(f"--spread {spread:g}: give a number above 0, or inf")
    own = run.config.model.calibration.kind
    kind = kind or (own if own != "none" else "platt")
    target = out or run.path.with_name(f"{run.path.name}-calibrated")
    if target.exists():
        raise UserError(f"{target}: exists already; remove it or choose another --out")
    config = load_config(run.config_file, [f"model.calibration.kind={kind}"])
    scorer = Scorer(run)
    if scored_by is not None:
        _check_same_cells(run, scored_by)
    rows = _scored(Scorer(scored_by) if scored_by else scorer, data)
    fitted, why = fit_calibrators(scorer.model, config, rows, spread)
    document = {
        "run": str(run.path),
        "out": str(target),
        "checkpoint": found.name,
        "data": data,
        "scored_by": str(scored_by.path if scored_by else run.path),
        "kind": kind,
        "spread": spread if kind in ("platt", "isotonic") and math.isfinite(spread) else None,
        "cells": _cells(config, scorer.model, fitted, why, rows),
    }
    with whole_folder(target) as folder:
        _write(run, RunDirectory(folder), found, config, fitted, document)
    return document


def _check_same_cells(run: RunDirectory, other: RunDirectory) -> None:
    """Raises UserError unless the run that scores has the same surfaces and tasks in one order.

    Scored rows name both by their place in the configuration.
    """
    ours, theirs = (
        {name: list(each.tasks) for name, each in config.active_surfaces.items()}
        for config in (run.config, other.config)
    )
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"--scored-by {other.path}: surface {name} has "
                f"{_tasks_shown(theirs.get(name))} there and {_tasks_shown(ours.get(name))} in "
                f"{run.path}; give a run of the same surfaces and tasks"
            )
    if list(ours) != list(theirs) or run.config.tasks != other.config.tasks:
        raise UserError(
            f"--scored-by {other.path}: lists its surfaces {', '.join(theirs)} and its tasks "
            f"{', '.join(other.config.tasks)}, in another order than {run.path}; give a run of "
            "the same configuration"
        )


def _tasks_shown(tasks: list[str] | None) -> str:
    return "no model" if tasks is None else f"the tasks {', '.join(tasks)}"


@torch.inference_mode()
def _scored(scorer: Scorer, data: str) -> Rows:
    parts = [
        (logits.raw, logits.probabilities(), batch.labels, batch.surface_index)
        for batch, logits in scorer.scores(open_table(data), labels=True, show="calibrate")
    ]
    if not parts:
        raise UserError(f"{data}: no candidate; give rows that were shown")
    rows = Rows(*(torch.cat(part) for part in zip(*parts, strict=True)))
    layout = scorer.model.layout
    for s, name in enumerate(layout.surfaces):  # a log may know labels that the model does not
        for t, task in enumerate(layout.tasks):
            if task not in layout.config.surfaces[name].tasks:
                rows.labels[rows.surface_index == s, t] = torch.nan
    for t, task in enumerate(layout.tasks):
        bad = rows.raw[:, t].isnan() & rows.cell(t, None)
        if bad.any():
            surface = layout.surfaces[int(rows.surface_index[bad][0])]
            raise UserError(
                f"{data}: {int(bad.sum()):,} scores of {task} are NaN, the first on surface "
                f"{surface}; look for extreme numbers in the data, or train the run again"
            )
    return rows


def fit_calibrators(
    model: UnifiedModel, config: Config, rows: Rows, spread: float
) -> tuple[dict[str, Calibrator], dict[tuple[str, str], str]]:
    """New calibrators of `config`, and of which (name, task) there was nothing to fit, and why."""
    section = config.model.calibration
    pooled = _pooled(config, rows) if math.isfinite(spread) else {}
    tasks_of = {name: tuple(each.tasks) for name, each in config.active_surfaces.items()}
    fitted = build_calibrators(section, tasks_of, config.tasks)
    why: dict[tuple[str, str], str] = {}
    for name, calibrator in fitted.items():
        if model.layout.config.model.calibration.kind == section.kind:
            calibrator.load_state_dict(model.calibrators[name].state_dict())
        s = None if name == EVERY_SURFACE else model.layout.surfaces.index(name)
        for at, task in enumerate(calibrator.tasks):
            t = config.tasks.index(task)
            raw, labels = rows.known(t, s)
            if fault := why_not(labels):
                why[name, task] = fault
                continue
            one = build_calibrator(section, (task,))
            assert one is not None
            refit(one, raw, labels, pooled.get(task), spread)
            with torch.no_grad():
                for whole, row in zip(calibrator.parameters(), one.parameters(), strict=True):
                    whole[at] = row[0]
    return fitted, why


def _pooled(config: Config, rows: Rows) -> dict[str, Calibrator]:
    """The calibrator of all surfaces of each task that several have; what theirs are near."""
    if config.model.calibration.kind == "global":
        return {}
    found = {}
    for t, task in enumerate(config.tasks):
        surfaces = [name for name, each in config.active_surfaces.items() if task in each.tasks]
        raw, labels = rows.known(t, None)
        if len(surfaces) > 1 and not why_not(labels):
            one = build_calibrator(config.model.calibration, (task,))
            assert one is not None
            refit(one, raw, labels)
            found[task] = one
    return found


def _cells(
    config: Config,
    model: UnifiedModel,
    fitted: dict[str, Calibrator],
    why: dict[tuple[str, str], str],
    rows: Rows,
) -> dict[str, dict[str, Any]]:
    """What became of each cell, with metrics before and after."""
    same = model.layout.config.model.calibration.kind == config.model.calibration.kind
    found: dict[str, dict[str, Any]] = {}
    for s, (surface, section) in enumerate(config.active_surfaces.items()):
        found[surface] = {}
        name = EVERY_SURFACE if EVERY_SURFACE in fitted else surface
        for task in section.tasks:
            t = config.tasks.index(task)
            cell = rows.cell(t, s)
            with torch.no_grad():
                z = fitted[name](rows.raw[cell, t : t + 1], (task,))
            rate = section.negative_sampling.get(task, 1.0)
            label = rows.labels[cell, t].numpy()
            after = (z[:, 0] + float(np.log(rate))).sigmoid().numpy()
            before = rows.probability[cell, t].numpy()
            weight = weights(label, rate) if rate < 1 else None
            metrics = [task_metrics(p, label, weight=weight) for p in (before, after)]
            status = "refitted"
            if fault := why.get((name, task)):
                status = f"{'kept' if same else 'identity'}: {fault}"
            found[surface][task] = {
                "status": status,
                "rows": metrics[0]["rows"],
                "positives": metrics[0]["positives"],
                **{key: _chosen(m) for key, m in zip(("before", "after"), metrics, strict=True)},
            }
    return found


def _chosen(metrics: Metrics) -> Metrics:
    return {name: metrics[name] for name in SHOWN}


def _write(
    run: RunDirectory,
    new: RunDirectory,
    source: Path,
    config: Config,
    fitted: dict[str, Calibrator],
    document: dict[str, Any],
) -> None:
    write_text(new.config_file, dump_config(config))
    shutil.copytree(run.statistics, new.statistics)
    for file in (run.plan, run.warm_start, run.metrics):
        if file.is_file():
            shutil.copyfile(file, new.path / file.name)
    write_json(new.path / "calibration.json", document)
    names = {
        f"{CALIBRATORS}{module_name(name)}.{key}": value
        for name, calibrator in fitted.items()
        for key, value in calibrator.state_dict().items()
    }
    tensors = {MODEL + name: value for name, value in names.items()}
    for name, value in names.items():  # Adam begins anew: its averages were of other values
        tensors[f"{STATE}{name}.exp_avg"] = torch.zeros_like(value)
        tensors[f"{STATE}{name}.exp_avg_sq"] = torch.zeros_like(value)
        tensors[f"{STATE}{name}.step"] = torch.zeros(())
    instead_of = (MODEL + CALIBRATORS, STATE + CALIBRATORS)
    write_replaced(source, new.checkpoints / source.name, tensors, instead_of)
    best = run.checkpoints / checkpoint.BEST
    if best.is_file() and json.loads(best.read_text(encoding="utf-8"))["step"] == _step(source):
        shutil.copyfile(best, new.checkpoints / checkpoint.BEST)


def _step(source: Path) -> int:
    return checkpoint.read_progress(source).step


def print_calibration(document: dict[str, Any], console: Console) -> None:
    """A line a cell: what became of it, metrics before and after."""
    table = Table("surface", "task", box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("rows", justify="right")
    for name in SHOWN:
        table.add_column(name.upper(), justify="right")
        table.add_column("→", justify="right")
    table.add_column("")
    for surface, tasks in document["cells"].items():
        for i, (task, cell) in enumerate(tasks.items()):
            pairs = [_shown(cell[when][name]) for name in SHOWN for when in ("before", "after")]
            status = "" if cell["status"] == "refitted" else cell["status"]
            table.add_row("" if i else surface, task, f"{cell['rows']:,}", *pairs, status)
    console.print(table)
    console.print(
        f"{document['kind']}, on the rows that it was fitted to. Judge it on others: "
        f"recsys evaluate {document['out']}",
        highlight=False,
        soft_wrap=True,
    )


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}"

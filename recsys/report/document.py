"""All figures of a report as one JSON document: the page draws these and no others."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recsys.errors import UserError
from recsys.evaluation.bootstrap import BUCKETS, LEVEL, RESAMPLES, resamples
from recsys.evaluation.fields import field_ece
from recsys.evaluation.measure import TOP, Measured, measure, steps_of
from recsys.evaluation.slices import (
    HISTORY_LENGTH,
    KNOWN_GROUP,
    Slicing,
    by_day,
    segment_names,
    segments,
)
from recsys.report.figures import Judged, table_of
from recsys.report.inputs import System
from recsys.report.same_rows import Common, common_rows
from recsys.report.shapes import by_day as day_figures
from recsys.report.shapes import is_calibrated, reliability, score_distribution

Step = Callable[[str], None]


def count_steps(systems: Sequence[System]) -> int:
    """How often `document_of` reports a step."""
    return sum(steps_of(each.rows) + 1 + (3 if each.run else 0) for each in systems)


def document_of(
    systems: Sequence[System],
    split: str,
    *,
    fields: Sequence[str] = (),
    cuts: Sequence[str] = (),
    top: Sequence[int] = TOP,
    count: int = RESAMPLES,
    seed: int = 0,
    step: Step = lambda _: None,
) -> dict[str, Any]:
    """Everything of the systems; the first is the baseline of the others.

    Args:
        systems: Opened; two or more must be predictions of the same rows.
        split: Of the runs.
        fields: Columns of Field-ECE, besides the surface.
        cuts: Columns of segments, besides whether users are known and how long histories are.
        top: The k of HIT@k.
        count: Resamples of the bootstrap.
        seed: Of the resamples.
        step: Called with a name before each pass.

    Raises `UserError` for tables that cannot be compared and columns that are not there.
    """
    tables = [each.rows for each in systems]
    commons = [common_rows(tables[0], other) for other in tables[1:]]
    slicings = _segments(systems, cuts)
    measured, days = [], []
    for system in systems:
        day = by_day([system.rows])
        days.append(day)
        measured.append(
            measure(
                system.rows,
                slicings,
                day,
                top=top,
                step=lambda what, name=system.name: step(f"{name}: {what}"),  # type: ignore[misc]
            )
        )
    active = np.logical_or.reduce([each.active for each in measured])
    weights = resamples(active, count, seed)
    document: dict[str, Any] = {
        "split": split if any(each.run for each in systems) else None,
        "baseline": systems[0].name,
        "bootstrap": {
            "resamples": count,
            "level": LEVEL,
            "units": int(active.sum()),
            "buckets": BUCKETS,
            "seed": seed,
        },
        "systems": [],
        "differences": [],
    }
    judged = []
    for system, found, day in zip(systems, measured, days, strict=True):
        step(f"{system.name}: intervals")
        judged.append(Judged(found, weights))
        document["systems"].append(
            _system(system, found, judged[-1], day, slicings, fields, weights, step)
        )
    for common, system, each in zip(commons, systems[1:], judged[1:], strict=True):
        document["differences"].append(
            {"system": system.name, **_difference(judged[0], each, common, slicings)}
        )
    return document


def _segments(systems: Sequence[System], cuts: Sequence[str]) -> list[Slicing]:
    tables = [each.rows for each in systems]
    own = [
        name
        for name in (KNOWN_GROUP, HISTORY_LENGTH)
        if all(name in table.schema.names for table in tables)
    ]
    runs = [each.run for each in systems if each.run]
    configured = [name for run in runs for name in run.config.evaluation.segments]
    there = [n for n in configured if all(n in table.schema.names for table in tables)]
    return [segments(tables, name) for name in segment_names(own, there, cuts)]


def _system(
    system: System,
    measured: Measured,
    judged: Judged,
    day: Slicing | None,
    slicings: Sequence[Slicing],
    fields: Sequence[str],
    weights: Any,
    step: Step,
) -> dict[str, Any]:
    rows, notes = system.rows, list(system.notes)
    found: dict[str, Any] = {
        "name": system.name,
        "path": str(system.path),
        "kind": "run" if system.run else "predictions",
        "rows": rows.rows,
        "tasks": rows.tasks,
        **table_of(judged, rows, {each.name: each.labels for each in slicings}),
    }
    shapes: dict[str, dict[str, Any]] = {}
    for (slicing, label, task), own in measured.slices.items():
        if slicing in ("all", "surface"):
            shapes.setdefault(label if slicing == "surface" else "all", {})[task] = {
                "calibrated": is_calibrated(own),
                "reliability": reliability(own, weights),
                "scores": score_distribution(own),
            }
    found["shapes"] = shapes
    if not any(each["calibrated"] for tasks in shapes.values() for each in tasks.values()):
        logits = all(rows.raw(task) for task in rows.tasks)
        reason = (
            "the logits give the same probabilities"
            if logits
            else "no column logit.TASK, or not of all rows"
        )
        notes.append(f"no calibration to compare with: {reason}")
    found["days"] = day_figures(measured, day, rows.surfaces, weights) if day else None
    if day is None:
        notes.append("no figures by day: column time is missing or no time")
    found["fields"] = {
        column: {
            task: {
                "value": field_ece(rows, task, column),
                "before": field_ece(rows, task, column, raw=True),
            }
            for task in rows.tasks
        }
        for column in _fields(system, fields)
    }
    found["run"] = None
    if system.run is not None:
        from recsys.report.run.inside import inside

        found["run"], missing = inside(system.run, lambda what: step(f"{system.name}: {what}"))
        notes += missing
    found["notes"] = notes
    return found


def _fields(system: System, fields: Sequence[str]) -> list[str]:
    configured = system.run.config.evaluation.fields if system.run else ()
    wanted = [*(name for name in configured if name in system.rows.schema.names), *fields]
    for name in fields:
        if name == "surface":
            raise UserError("--field surface: is always reported; name another column")
    return list(dict.fromkeys(wanted))


def _difference(
    baseline: Judged, other: Judged, common: Common, slicings: Sequence[Slicing]
) -> dict[str, Any]:
    def tasks(slicing: str, label: str) -> dict[str, Any]:
        # Over other rows, a difference would be one of the rows and not of the systems.
        chosen = common.tasks if slicing == "surface" else common.pooled
        keys = ((slicing, label, task) for task in chosen)
        return {
            key[2]: other.difference(baseline, key)
            for key in keys
            if key in other.values and key in baseline.values
        }

    return {
        "notes": common.notes,
        "surfaces": {name: {"tasks": tasks("surface", name)} for name in common.surfaces},
        "all": {"tasks": tasks("all", "all")},
        "segments": {
            each.name: {label: {"tasks": tasks(each.name, label)} for label in each.labels}
            for each in (slicings if common.pooled else ())
        },
    }

"""Calibration before and after, score distributions, days."""

from html import escape
from typing import Any

from recsys.report.html import Raw, estimate, grid, keys, paragraph, section, subheading, table
from recsys.report.plots import lines, reliability
from recsys.report.sections.cells import (
    ALL,
    Document,
    cells_of,
    every_cell,
    every_task,
    panels,
    surfaces_of,
)

MOST_LINES = 8


def calibration(document: Document) -> str:
    """Reliability and scores of every cell; numbers before and after calibration."""
    systems = document["systems"]
    cells, word = panels(every_cell(document), document)
    drawings = []
    for surface, task in cells:
        own = [
            (s["name"], s["shapes"].get("all" if surface == ALL else surface, {}).get(task))
            for s in systems
        ]
        drawn = [(name, shape) for name, shape in own if shape and shape["reliability"]]
        if drawn:
            drawings.append(reliability(f"{surface}, {task}", drawn))
    calibrated = _any_calibrated(document)
    dashes = " The dashed line is the score before calibration." if calibrated else ""
    parts = [
        paragraph(
            "Each dot is a fifteenth of the rows: its mean prediction and its observed rate, with "
            f"its 95 % interval. On the diagonal a prediction can be taken at its word.{dashes}"
        ),
        keys([s["name"] for s in systems]),
        paragraph(word) if word else "",
        grid(drawings),
        "<h3>In numbers</h3>",
        _numbers(document),
        "<h3>Field-ECE</h3>",
        paragraph(
            "How far the mean prediction is from the rate, on average over the values of a field. "
            "Only fields of few values have an interval."
        ),
        _fields(document),
    ]
    return section("Calibration", *parts)


def _numbers(document: Document) -> str:
    rows: list[list[object]] = []
    drift, both = _drift(document), _any_calibrated(document)
    for cell in every_cell(document):
        for system in document["systems"]:
            found = cells_of(system).get(cell)
            if found is None:
                continue
            row: list[object] = [*cell]
            if len(document["systems"]) > 1:
                row.append(system["name"])
            for metric in ("pcoc", "ece", "ne"):
                if both:
                    row.append(estimate(found.get(f"{metric}_raw")))
                row.append(estimate(found[metric]))
            if drift:
                row.append(drift.get((system["name"], *cell), Raw("")))
            rows.append(row)
    times = ("before", "after") if both else ("",)
    head = [f"{name} {when}".strip() for name in ("PCOC", "ECE", "NE") for when in times]
    system_head = ["system"] if len(document["systems"]) > 1 else []
    change = ["rate, valid → judged"] if drift else []
    names = 2 + len(system_head)
    return table(["surface", "task", *system_head, *head, *change], rows, names=names)


def _any_calibrated(document: Document) -> bool:
    return any(
        shape["calibrated"]
        for s in document["systems"]
        for tasks in s["shapes"].values()
        for shape in tasks.values()
    )


def _drift(document: Document) -> dict[tuple[str, str, str], Raw]:
    """How base rates moved between the valid split, on which choices are made, and these rows."""
    found = {}
    for system in document["systems"]:
        data = (system["run"] or {}).get("data") or {}
        for surface, each in data.get("valid", {}).get("surfaces", {}).items():
            for task, cell in each["tasks"].items():
                now = cells_of(system).get((surface, task))
                rate = now["base_rate"]["value"] if now else None
                if rate is not None and cell["rate"]:
                    change = (rate / cell["rate"] - 1) * 100
                    shown = f"{cell['rate']:.4f} → {rate:.4f}<small>{change:+.1f} %</small>"
                    found[system["name"], surface, task] = Raw(shown)
    return found


def _fields(document: Document) -> str:
    rows, both = [], _any_calibrated(document)
    for system in document["systems"]:
        for task, cell in system["all"]["tasks"].items():
            rows.append(
                [
                    "surface",
                    task,
                    system["name"],
                    *([estimate(cell.get("field_ece_raw"))] if both else []),
                    estimate(cell["field_ece"]),
                ]
            )
        for column, tasks in system["fields"].items():
            rows += [
                [
                    *(column, task, system["name"]),
                    *([_plain(found["before"])] if both else []),
                    _plain(found["value"]),
                ]
                for task, found in tasks.items()
            ]
    heads = ["before", "after"] if both else ["Field-ECE"]
    return table(["field", "task", "system", *heads], rows, names=3, fit=True)


def _plain(value: float | None) -> Any:
    return estimate(None) if value is None else f"{value:.4f}"


def days(document: Document) -> str:
    """NE and PCOC by day."""
    parts = []
    for system in document["systems"]:
        found = system["days"]
        if not found:
            continue
        dates = {line["day"] for tasks in found.values() for t in tasks.values() for line in t}
        if len(dates) < 2:
            parts.append(paragraph(escape(f"{system['name']}: all rows are of one day.")))
            continue
        names = [name for name in surfaces_of(document) if name in found or name == ALL]
        names = names if len(names) <= MOST_LINES else [ALL]
        drawings = []
        for task in every_task(document):
            for metric, title in (("ne", "NE"), ("pcoc", "PCOC")):
                series = {}
                for name in names:
                    own = found.get("all" if name == ALL else name, {}).get(task)
                    if own:
                        series[name] = ([x["day"] for x in own], [x[metric] for x in own])
                if series:
                    drawings.append(lines(f"{title}, {task}", series, reference=1.0))
        if len(document["systems"]) > 1:
            parts.append(subheading(system["name"]))
        parts.append(grid(drawings))
    if not parts:
        return ""
    return section("By day", paragraph("Days are UTC; bars are 95 % intervals."), *parts)

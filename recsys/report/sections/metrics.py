"""Metrics per surface and task, differences, segments."""

from html import escape
from typing import Any

from recsys.report.html import (
    Raw,
    estimate,
    grid,
    keys,
    paragraph,
    section,
    subheading,
    table,
)
from recsys.report.plots import intervals
from recsys.report.sections.cells import (
    ALL,
    MOST_PANELS,
    Document,
    cells_of,
    every_cell,
    every_task,
)

HEADINGS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "pr_auc": "PR-AUC",
    "logloss": "log loss",
    "ne": "NE",
    "pcoc": "PCOC",
    "ece": "ECE",
    "field_ece": "Field-ECE",
}
DRAWN = {"auc": None, "ne": 1.0, "pcoc": 1.0}
# Whether more is better; PCOC is best at 1.
BETTER = {"auc": 1, "gauc": 1, "pr_auc": 1, "logloss": -1, "ne": -1, "ece": -1, "field_ece": -1}


def heading(metric: str) -> str:
    return HEADINGS.get(metric, metric.upper())


def shown_metrics(document: Document) -> list[str]:
    """Columns of the metrics' tables."""
    hits = [
        name
        for name in next(iter(cells_of(document["systems"][0]).values()), {})
        if name.startswith("hit@")
    ]
    return ["auc", "gauc", "pr_auc", "logloss", "ne", "pcoc", "ece", *hits]


def metrics(document: Document) -> str:
    """A drawing a task and metric, then every number."""
    systems, rows = document["systems"], []
    many = len(systems) > 1
    columns = shown_metrics(document)
    for cell in every_cell(document):
        for number, system in enumerate(systems):
            found = cells_of(system).get(cell)
            if found is None:
                continue
            name = [Raw(_coloured(number, system["name"]))] if many else []
            counts = [f"{found['rows']:,}", f"{found['positives']:,}"]
            rows.append([*cell, *name, *counts, *(estimate(found[m]) for m in columns)])
    names = ["surface", "task", *(["system"] if many else [])]
    head = [*names, "rows", "positives", *map(heading, columns)]
    return section(
        "Metrics",
        paragraph(
            "With 95 % intervals of a bootstrap over users. An en dash is a metric without a "
            "value, for example AUC where only one class is known."
        ),
        keys([system["name"] for system in systems]),
        grid(_drawings(document)),
        table(head, rows, names=len(names)),
    )


def _drawings(document: Document) -> list[str]:
    cells = every_cell(document)
    found = []
    for task in every_task(document):
        rows = [surface for surface, other in cells if other == task][:MOST_PANELS]
        for metric, reference in DRAWN.items():
            systems = [
                (s["name"], {c[0]: e for c, e in cells_of(s).items() if c[1] == task})
                for s in document["systems"]
            ]
            title = f"{heading(metric)}, {task}"
            found.append(intervals(title, systems, rows, metric, reference=reference))
    return found


def differences(document: Document) -> str:
    """Each system less the baseline; empty for one system."""
    if not document["differences"]:
        return ""
    parts = [
        paragraph(
            f"Less the baseline, <b>{escape(document['baseline'])}</b>: on the same rows, and in "
            "the same resamples. Coloured where the interval leaves out 0: green is better, red is "
            "worse."
        )
    ]
    for found in document["differences"]:
        cells = {
            (surface, task): each
            for surface, tasks in found["surfaces"].items()
            for task, each in tasks["tasks"].items()
        } | {(ALL, task): each for task, each in found["all"]["tasks"].items()}
        columns = shown_metrics(document)
        rows = [
            [*cell, *(_judged(each.get(m), m) for m in columns)] for cell, each in cells.items()
        ]
        drawings = [
            intervals(
                f"Δ {heading(metric)}, {task}",
                [(found["system"], {c[0]: e for c, e in cells.items() if c[1] == task})],
                [c[0] for c in cells if c[1] == task],
                metric,
                reference=0.0,
                certain=True,
            )
            for task in dict.fromkeys(task for _, task in cells)
            for metric in ("auc", "ne")
        ]
        parts += [
            subheading(f"{found['system']} − {document['baseline']}"),
            *(paragraph(escape(note)) for note in found["notes"]),
            grid(drawings),
            table(["surface", "task", *map(heading, columns)], rows, names=2),
        ]
    return section("Differences", *parts)


def _judged(found: dict[str, Any] | None, metric: str) -> Raw:
    shown = estimate(found, sign=True)
    if found is None or found["low"] is None or found["low"] <= 0 <= found["high"]:
        return shown
    direction = BETTER.get(metric, 1 if metric.startswith("hit@") else 0)
    if not direction:
        return shown
    better = (found["value"] > 0) == (direction > 0)
    return Raw(f'<b class="{"good" if better else "bad"}">{shown}</b>')


def segments(document: Document) -> str:
    """Metrics by segments of users or of any column, over all surfaces."""
    systems = document["systems"]
    parts, many = [], len(systems) > 1
    columns = ("auc", "ne", "pcoc", "ece")
    for column in systems[0]["segments"]:
        rows = []
        for label in systems[0]["segments"][column]:
            for task in every_task(document):
                for number, system in enumerate(systems):
                    cell = system["segments"][column][label]["tasks"].get(task)
                    if cell is None or not cell["rows"]:
                        continue
                    name = [Raw(_coloured(number, system["name"]))] if many else []
                    numbers = (estimate(cell[m]) for m in columns)
                    rows.append([label, task, *name, f"{cell['rows']:,}", *numbers])
        names = [column, "task", *(["system"] if many else [])]
        parts += [
            subheading(_words(column)),
            table([*names, "rows", *map(heading, columns)], rows, names=len(names)),
        ]
    if not parts:
        return ""
    return section("Segments", paragraph("Over all surfaces."), *parts)


def _words(column: str) -> str:
    return {
        "known_group": "Users that training saw (yes) or not (no)",
        "history_length": "Length of the history",
    }.get(column, f"By {column}")


def _coloured(number: int, name: str) -> str:
    return f'<span style="color:var(--c{number % 8})">{escape(name)}</span>'

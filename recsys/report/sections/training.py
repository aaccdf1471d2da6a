"""What is inside a run: learning curves, experts, gradients, effective weights, data."""

from typing import Any

from recsys.report.html import (
    NO_VALUE,
    Raw,
    estimate,
    grid,
    heat,
    keys,
    paragraph,
    section,
    subheading,
    table,
)
from recsys.report.plots import learning
from recsys.report.sections.cells import ALL, Document, every_cell, panels, runs_of


def learning_curves(document: Document) -> str:
    """The loss of every (surface, task) on train and on valid."""
    runs = [(name, run["learning"]) for name, run in runs_of(document) if run["learning"]]
    if not runs:
        return ""
    cells = [cell for cell in every_cell(document) if cell[0] != ALL]
    drawn, word = panels(cells, document)
    drawings = []
    for surface, task in drawn:
        curves = [(name, _curve(found, surface, task)) for name, found in runs]
        curves = [(name, curve) for name, curve in curves if curve["train"] or curve["valid"]]
        if curves:
            drawings.append(learning(f"{surface}, {task}", curves))
    return section(
        "Learning curves",
        paragraph(
            "Log loss of each (surface, task): while training (thin line), and on the valid split "
            f"(dots). The upright line is the step that was kept. {word}"
        ),
        keys([name for name, _ in runs]),
        grid(drawings),
    )


def _curve(found: dict[str, Any], surface: str, task: str) -> dict[str, Any]:
    train = [
        (record["step"], (record["cells"] or {}).get(surface, {}).get(task))
        for record in found["train"]
    ]
    valid = [
        (record["step"], record["surfaces"].get(surface, {}).get(task, {}).get("logloss"))
        for record in found["valid"]
    ]
    return {"train": train, "valid": valid, "best_step": found["best_step"]}


def experts(document: Document) -> str:
    """Which experts each (surface, task) listens to."""
    parts = []
    runs = [(name, run["experts"]) for name, run in runs_of(document) if run["experts"]]
    for name, found in runs:
        rows = [
            (f"{surface} · {task}", weights)
            for surface, tasks in found["gates"].items()
            for task, weights in tasks.items()
        ]
        if not rows:
            continue
        shared = len(rows[0][1]) - found["own"]
        heads = [f"expert {i + 1}" for i in range(shared)]
        heads += [f"own {i + 1}" for i in range(found["own"])]
        if found["dead"]:
            listed = ", ".join(str(i + 1) for i in found["dead"])
            word = f'<b class="bad">Dead: expert {listed}.</b> Nobody listens, or it says nothing.'
        else:
            word = "No expert is dead."
        fair = 1 / len(rows[0][1])
        parts += [
            subheading(name) if len(runs) > 1 else "",
            paragraph(f"{word} A fair share is {fair:.2f}."),
            heat(heads, rows, most=1.0, marked=found["dead"]),
        ]
    if not parts:
        return ""
    return section(
        "Experts",
        paragraph("Mean weight that the gate of each (surface, task) gives each expert."),
        *parts,
    )


def gradients(document: Document) -> str:
    """Whether surfaces and tasks pull the trunk the same way."""
    parts = []
    runs = [(name, run["gradients"]) for name, run in runs_of(document) if run["gradients"]]
    for name, found in runs:
        if len(runs) > 1:
            parts.append(subheading(name))
        for kind in ("surfaces", "tasks"):
            names = found[kind]["names"]
            rows = list(zip(names, found[kind]["cosine"], strict=True))
            parts += [
                subheading(f"Between {kind}"),
                heat(names, rows, most=1.0, signed=True, diagonal=True),
            ]
        names = [" · ".join(cell) for cell in found["cells"]["names"]]
        rows = list(zip(names, found["cells"]["cosine"], strict=True))
        parts.append(
            f"<details><summary>Between all {len(names)} cells</summary>"
            + heat(names, rows, most=1.0, signed=True, diagonal=True)
            + "</details>"
        )
    if not parts:
        return ""
    return section(
        "Gradient conflict",
        paragraph(
            "Cosine between gradients with respect to the trunk's weights, on training rows: above "
            "0 a step for one helps the other, below 0 it hurts. The diagonal is the cosine of two "
            "halves of one sample: where it is far below 1, its row and column are mostly noise."
        ),
        *parts,
    )


def weights(document: Document) -> str:
    """How much each surface counts in training."""
    rows = [
        [name, surface, *(_percent(each[part]) for part in ("rows", "loss", "gradient"))]
        for name, run in runs_of(document)
        if run["weights"]
        for surface, each in run["weights"].items()
    ]
    if not rows:
        return ""
    return section(
        "Effective weight",
        paragraph(
            "Each surface's share of the training rows, of the loss's weight, and of the length of "
            "the gradient that reaches the trunk. Large differences between the three say who the "
            "shared weights are made for."
        ),
        table(["run", "surface", "rows", "loss weight", "gradient norm"], rows, names=2, fit=True),
    )


def data(document: Document) -> str:
    """Counts of the splits, and how base rates differ between them."""
    parts = []
    seen: list[Any] = []
    for name, run in runs_of(document):
        found = run["data"]
        if not found or found in seen:
            continue
        seen.append(found)
        splits = [
            [
                split,
                *(f"{each[k]:,}" for k in ("requests", "candidates")),
                Raw(NO_VALUE) if each["users"] is None else f"{each['users']:,}",
            ]
            for split, each in found.items()
        ]
        cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for split, each in found.items():
            for surface, own in each["surfaces"].items():
                for task, cell in own["tasks"].items():
                    cells.setdefault((surface, task), {})[split] = cell
        rows = []
        for cell, own in cells.items():
            row: list[object] = list(cell)
            for split in found:
                one = own.get(split)
                rate = one["rate"] if one else None
                row += [f"{one['known']:,}" if one else "", _percent(rate)]
            rows.append(row)
        heads = [h for split in found for h in (f"{split} labels", "rate")]
        parts += [
            subheading(name) if len(runs_of(document)) > 1 else "",
            table(["split", "requests", "candidates", "users"], splits, fit=True),
            table(["surface", "task", *heads], rows, names=2),
        ]
    if not parts:
        return ""
    return section(
        "Data",
        paragraph("Known labels of each split, and the share of them that are positive."),
        *parts,
    )


def _percent(value: float | None) -> object:
    return estimate(None) if value is None else f"{value:.2%}"

"""How parts of the page walk through the document."""

from collections import Counter
from typing import Any

Document = dict[str, Any]

ALL = "all surfaces"
MOST_PANELS = 40


def cells_of(system: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """(surface, task) → metrics; then (ALL, task)."""
    found = {
        (surface, task): cell
        for surface, each in system["surfaces"].items()
        for task, cell in each["tasks"].items()
    }
    return found | {(ALL, task): cell for task, cell in system["all"]["tasks"].items()}


def every_cell(document: Document) -> list[tuple[str, str]]:
    """The cells of any system, surfaces first; a task of one surface is not repeated for all."""
    cells = dict.fromkeys(c for system in document["systems"] for c in cells_of(system))
    surfaces = Counter(task for surface, task in cells if surface != ALL)
    kept = [cell for cell in cells if cell[0] != ALL or surfaces[cell[1]] != 1]
    return sorted(kept, key=lambda cell: cell[0] == ALL)


def every_task(document: Document) -> list[str]:
    return list(dict.fromkeys(t for system in document["systems"] for t in system["tasks"]))


def surfaces_of(document: Document) -> list[str]:
    """Surfaces in the order of the systems; then ALL."""
    found = dict.fromkeys(s for system in document["systems"] for s in system["surfaces"])
    return [*found, ALL]


def panels(cells: list[tuple[str, str]], document: Document) -> tuple[list[tuple[str, str]], str]:
    """The cells that get a drawing, and a word where they are not all: the largest ones do."""
    if len(cells) <= MOST_PANELS:
        return cells, ""
    size = {
        cell: max(cells_of(s).get(cell, {"rows": 0})["rows"] for s in document["systems"])
        for cell in cells
    }
    kept = set(sorted(cells, key=lambda cell: -size[cell])[:MOST_PANELS])
    word = f"Drawn for the {MOST_PANELS} largest of {len(cells)} cells; --json has all."
    return [cell for cell in cells if cell in kept], word


def runs_of(document: Document) -> list[tuple[str, dict[str, Any]]]:
    """(name, what is inside) of the systems that are runs."""
    return [(s["name"], s["run"]) for s in document["systems"] if s["run"]]

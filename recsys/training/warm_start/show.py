"""What a warm start did, for people and for programs."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.training.warm_start.load import Part

STYLES = {"loaded": "green", "partly loaded": "yellow", "initialised": "cyan", "skipped": "dim"}


def summary(source: str, parts: Sequence[Part]) -> dict[str, Any]:
    """JSON-able: the other run, and what became of every weight and table."""
    return {
        "from": source,
        "parts": [
            {
                "name": part.name,
                "kind": part.kind,
                "status": part.status,
                "loaded": part.loaded,
                "size": part.size,
                "why": part.why,
            }
            for part in parts
        ],
    }


def print_parts(parts: Sequence[Part], console: Console) -> None:
    """Tables one by one; dense weights by the block that they are in and by what became of them."""
    table = Table("", "", "loaded", "of", "why", title="Warm start")
    for (name, status), found in _grouped(parts).items():
        reasons = list(dict.fromkeys(part.why for part in found if part.why))
        why = reasons[0] if reasons else ""
        if len(reasons) > 1:
            why += f" (and {len(reasons) - 1} more)"
        loaded, size = (sum(getattr(part, what) for part in found) for what in ("loaded", "size"))
        style = STYLES[status]
        table.add_row(name, f"[{style}]{status}[/]", f"{loaded:,}", f"{size:,}", why)
    console.print(table)


def _grouped(parts: Sequence[Part]) -> dict[tuple[str, str], list[Part]]:
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        block = ".".join(part.name.split(".")[:2])
        label = f"tables.{part.name}" if part.kind == "table" else block
        groups.setdefault((label, part.status), []).append(part)
    return groups

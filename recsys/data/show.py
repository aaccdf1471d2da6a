"""What `recsys data check` prints."""

from typing import Any

from rich.console import Console
from rich.table import Table

MOST_COLUMNS = 60  # that are listed whatever they hold


def print_check(result: dict[str, Any], console: Console) -> None:
    """Prints what `check` returned: a row for each split, surface and task, then the faults."""
    table = Table("split", "surface", "task", title="Labels")
    for heading in ("requests", "candidates", "known labels", "positives", "share"):
        table.add_column(heading, justify="right")
    for split, counts in result["splits"].items():
        for surface, found in counts["surfaces"].items():
            for task, labels in found["tasks"].items():
                known, positives = labels["known"], labels["positives"]
                sizes = [f"{found[key]:,}" for key in ("requests", "candidates")]
                share = f"{positives / known:.2%}" if known else "–"
                table.add_row(
                    split, surface, task, *sizes, f"{known:,}", f"{positives:,.0f}", share
                )
    console.print(table)
    _print_features({name: each["features"] for name, each in result["splits"].items()}, console)
    for fault in result["faults"]:
        console.print(f"{fault['split']}: {fault['message']}", style="red", highlight=False)
    if not result["faults"]:
        console.print("No fault found.", style="green")


def _print_features(splits: dict[str, dict[str, Any]], console: Console) -> None:
    """A row a column. In a long list those without nulls are only counted."""
    names = dict.fromkeys(name for features in splits.values() for name in features)
    found = {name: {s: each[name] for s, each in splits.items() if name in each} for name in names}
    plain = {n for n, each in found.items() if not any(part["nulls"] for part in each.values())}
    folded = plain if len(found) > MOST_COLUMNS else set()
    table = Table("column", title="Features: share of nulls, range")
    for heading in (*splits, "lowest", "highest"):
        table.add_column(heading, justify="right")
    for name, each in found.items():
        if name in folded:
            continue
        nulls = [_share(each[split]) if split in each else "–" for split in splits]
        ends = [
            [part[end] for part in each.values() if part[end] is not None] for end in ("min", "max")
        ]
        lowest, highest = (
            f"{choose(values):,.6g}" if values else "–"
            for choose, values in zip((min, max), ends, strict=True)
        )
        table.add_row(name, *nulls, lowest, highest)
    if table.row_count:
        console.print(table)
    if folded:
        console.print(f"{len(folded)} columns without nulls; --json has the range of each")


def _share(found: dict[str, Any]) -> str:
    return f"{found['nulls'] / found['values']:.2%}" if found["values"] else "–"

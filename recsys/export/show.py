"""Artefacts as tables for a console."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from recsys.export.artefact import PROGRAM
from recsys.export.package import Packaged


def summary(packaged: Packaged) -> dict[str, Any]:
    """What `recsys export --json` prints."""
    manifest = packaged.manifest
    source = manifest["source"]
    return {
        "path": str(packaged.path),
        "written": packaged.written,
        "surface": manifest["surface"],
        "version": manifest["version"],
        "tasks": manifest["tasks"],
        "precision": manifest["precision"],
        "bytes": manifest["files"][PROGRAM]["bytes"],
        "checkpoint_bytes": source.get("checkpoint_bytes"),
        "parity": manifest["parity"],
        "metrics": manifest["metrics"],
        "latency": manifest["latency"],
    }


def print_exports(summaries: Sequence[dict[str, Any]], console: Console) -> None:
    """A row for each export: tasks, size against the joint checkpoint, parity, latency."""
    table = Table("surface", "version", "tasks", box=None, header_style="bold", padding=(0, 1))
    for heading in ("model.pt2", "of the checkpoint", "max |Δp|", "ΔAUC", "ΔNE", "p50", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in summaries:
        tasks = each["parity"]["tasks"].values()
        latency, whole = each["latency"], each["checkpoint_bytes"]
        table.add_row(
            each["surface"],
            each["version"],
            ", ".join(each["tasks"]),
            f"{each['bytes'] / 2**20:,.2f} MiB",
            f"{each['bytes'] / whole:.1%}" if whole else "–",
            f"{max(task['probability'] for task in tasks):.1e}",
            _largest([task["auc"] for task in tasks], "{:+.5f}"),
            _largest([task["ne"] for task in tasks], "{:+.3%}"),
            f"{latency['p50_ms']:.2f} ms",
            f"{latency['p99_ms']:.2f} ms",
        )
    # Its own width, not the console's: 80 columns (a log file) would cut the names off.
    table.width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.print(table, soft_wrap=True)
    for each in summaries:
        state = "written" if each["written"] else "was there already, nothing written"
        console.print(f"{Path(each['path'])}: {state}", highlight=False, soft_wrap=True)


def print_finetuned(result: dict[str, Any], console: Console) -> None:
    """The metrics before and after, then the new version."""
    table = Table("task", box=None, header_style="bold", padding=(0, 1))
    for metric in ("NE", "AUC", "PCOC"):
        for when in ("before", "after"):
            table.add_column(f"{metric} {when}", justify="right", no_wrap=True)
    tuned = result["finetune"]
    for task, before in tuned["before"].items():
        after = tuned["after"][task]
        pairs = [m[name] for name in ("ne", "auc", "pcoc") for m in (before, after)]
        table.add_row(task, *("–" if value is None else f"{value:.4f}" for value in pairs))
    console.print(table)
    print_exports([result], console)


def _largest(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(max(known, key=abs)) if known else "–"

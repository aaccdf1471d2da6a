"""The metrics of `recsys evaluate` as a table for a console."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from recsys.evaluation.metrics import METRICS

NO_VALUE = "\N{EN DASH}"
ALL_SURFACES = "all"

_HEADINGS = {"auc": "AUC", "gauc": "GAUC", "pr_auc": "PR-AUC", "logloss": "log loss"}
_HEADINGS |= {"ne": "NE", "pcoc": "PCOC", "ece": "ECE"}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """A line for each surface x task, then for each task over all surfaces.

    `metrics` is what `recsys evaluate --json` prints. Numbers have 4 decimals, a metric without a
    value is an en dash.
    """
    split = metrics.get("split")
    table = Table(
        title=f"{split} split" if split else None,
        caption=_sizes(metrics["surfaces"]) + _field_ece(metrics.get("field_ece", {})),
        caption_justify="left",
        box=None,
        header_style="bold",
        padding=(0, 1, 0, 0),
    )
    for heading in ("surface", "task"):
        table.add_column(heading, no_wrap=True)
    every = metrics["all"]["tasks"].values()
    hits = [name for name in next(iter(every), {}) if name.startswith("hit@")]
    columns = [*METRICS, *hits]
    for heading in ("rows", "positives", *(_HEADINGS.get(name, name.upper()) for name in columns)):
        table.add_column(heading, justify="right", no_wrap=True)

    blocks = [(surface, found["tasks"]) for surface, found in metrics["surfaces"].items()]
    segments = [
        (f"{column} {label}", found["tasks"])
        for column, labels in metrics.get("segments", {}).items()
        for label, found in labels.items()
    ]
    for surface, tasks in [*blocks, (ALL_SURFACES, metrics["all"]["tasks"]), *segments]:
        for i, (task, values) in enumerate(tasks.items()):
            table.add_row(
                # Each surface is named once, so that the eye finds where it begins.
                "" if i else surface,
                task,
                f"{values['rows']:,}",
                f"{values['positives']:,}",
                *(_number(values[name]) for name in columns),
                style="bold" if surface == ALL_SURFACES else None,
                end_section=i == len(tasks) - 1,
            )
    return table


def print_metrics(metrics: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints `metrics_table`; a narrow console wraps lines, numbers are never cut off."""
    console = console or Console()
    table = metrics_table(metrics)
    # Its own width, not the console's: 80 columns (a log file) would shorten the numbers.
    unlimited = console.options.update(max_width=10_000)
    table.width = Measurement.get(console, unlimited, table).maximum
    console.print(table, soft_wrap=True)


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.4f}"


def _field_ece(fields: Mapping[str, Mapping[str, float | None]]) -> str:
    return "".join(
        f"\nField-ECE by {column}: "
        + ", ".join(f"{task} {_number(value)}" for task, value in tasks.items())
        for column, tasks in fields.items()
    )


def _sizes(surfaces: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{surface}: {found['requests']:,} requests, {found['candidates']:,} candidates"
        for surface, found in surfaces.items()
    )

"""`recsys report`: opens, measures, writes one page."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from recsys.errors import UserError
from recsys.evaluation.bootstrap import RESAMPLES
from recsys.evaluation.measure import TOP
from recsys.evaluation.rows import MEMORY
from recsys.evaluation.slices import segment_names
from recsys.files import check_out, write_text
from recsys.page import page
from recsys.report import html
from recsys.report.document import Step, count_steps, document_of
from recsys.report.inputs import System, is_run, open_systems
from recsys.report.sections import calibration, metrics, summary, training

LEAST_RESAMPLES = 100  # for percentiles of 2.5 %

PARTS = {
    "What to look at": summary.flags,
    "Metrics": metrics.metrics,
    "Differences": metrics.differences,
    "Calibration": calibration.calibration,
    "By day": calibration.days,
    "Segments": metrics.segments,
    "Learning curves": training.learning_curves,
    "Experts": training.experts,
    "Gradient conflict": training.gradients,
    "Effective weight": training.weights,
    "Data": training.data,
    "How figures are made": summary.method,
}


def report(
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    split: str = "test",
    predictions: bool = False,
    fields: Sequence[str] = (),
    segments: Sequence[str] = (),
    top: Sequence[int] = (),
    count: int = RESAMPLES,
    memory: str = MEMORY,
) -> dict[str, Any]:
    """Writes the page and returns its figures, with `out` set to its path.

    Args:
        paths: Run directories, or tables of predictions; the first is the baseline.
        out: Default: `RUN/report.html` for one run, else `report.html` here.
        split: Of the runs.
        predictions: Take every path for a table of predictions.
        fields: Columns whose Field-ECE is reported.
        segments: Columns by which metrics are cut.
        top: The k of HIT@k. Default: those of the first run's configuration.
        count: Resamples.
        memory: DuckDB's, for example 4GB; it sorts on disk beyond that.

    Raises `UserError` for everything that is wrong with the input.
    """
    if count < LEAST_RESAMPLES:
        raise UserError(f"--resamples {count}: give at least {LEAST_RESAMPLES}")
    if split not in ("train", "valid", "test"):
        raise UserError(f"--split {split}: is train, valid or test")
    if any(k < 1 for k in top):
        raise UserError(f"--hit-at {min(top)}: counts the top of a request; give 1 or more")
    segment_names(segments)
    if out is None:
        alone = len(paths) == 1 and not predictions and is_run(paths[0])
        out = paths[0] / "report.html" if alone else Path("report.html")
    check_out(out)
    systems = open_systems(paths, split, predictions=predictions, memory=memory)
    try:
        with _progress(count_steps(systems)) as step:
            document = document_of(
                systems,
                split,
                fields=fields,
                cuts=segments,
                top=top or _top_of(systems),
                count=count,
                step=step,
            )
    finally:
        for system in systems:
            system.rows.close()
    write_text(out, html_of(document))
    return {**document, "out": str(out)}


def html_of(document: dict[str, Any]) -> str:
    """The page that draws a document."""
    drawn = {title: part(document) for title, part in PARTS.items()}
    kept = {title: part for title, part in drawn.items() if part}
    title = " against ".join(reversed([s["name"] for s in document["systems"]]))
    parts = [summary.systems(document), html.contents(list(kept)), *kept.values()]
    return page(f"Evaluation of {title}", parts, html.STYLE)


def _top_of(systems: Sequence[System]) -> Sequence[int]:
    runs = [system.run for system in systems if system.run]
    return runs[0].config.evaluation.hit_at if runs else TOP


@contextmanager
def _progress(steps: int) -> Iterator[Step]:
    """Shows the steps on stderr."""
    bar = Progress(
        TextColumn("[bold]report"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=steps)

        def step(what: str) -> None:
            bar.update(task, advance=1, description=what)

        yield step

"""Verbs that judge a run."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.arguments import Fields, Json, Segments, print_result


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    surface: Annotated[str | None, typer.Option(help="This surface alone, by its view.")] = None,
    fields: Fields = None,
    segments: Segments = None,
    as_json: Json = False,
) -> None:
    """Metrics per surface and task; writes the predictions table."""
    from recsys.evaluation.score import evaluate as evaluate_run
    from recsys.evaluation.table import print_metrics
    from recsys.run_directory import RunDirectory

    opened = RunDirectory.open(run)
    metrics = evaluate_run(opened, split, surface, fields=fields or (), segments=segments or ())
    print_result(metrics, as_json, lambda console: print_metrics(metrics, console))


def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    data: Annotated[str, typer.Option(help="Labelled request table: folder or file.")],
    kind: Annotated[
        str | None, typer.Option(help="platt, isotonic or global. Default: the run's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN-calibrated.")] = None,
    spread: Annotated[
        float, typer.Option(help="Of surfaces around all together, in logits; inf: each by itself.")
    ] = 0.1,
    scored_by: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Has not seen the data, if a retrained RUN has."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Refits the calibrators alone on fresh data: a new run directory, all else the same."""
    from recsys.evaluation.calibrate import calibrate as calibrate_run
    from recsys.evaluation.calibrate import print_calibration
    from recsys.run_directory import RunDirectory

    other = RunDirectory.open(scored_by) if scored_by else None
    found = calibrate_run(RunDirectory.open(run), data, kind, out, spread=spread, scored_by=other)
    print_result(found, as_json, lambda console: print_calibration(found, console))


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Run directories, or tables of predictions."),
    ],
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Take every argument for a table of predictions.")
    ] = False,
    split: Annotated[str, typer.Option(help="train, valid or test, of runs.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Default: RUN/report.html; report.html for several.")
    ] = None,
    fields: Fields = None,
    segments: Segments = None,
    hit_at: Annotated[list[int] | None, typer.Option(help="A k of HIT@k; several.")] = None,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap over users.")] = 1000,
    memory_limit: Annotated[str, typer.Option(help="DuckDB's; it sorts on disk beyond.")] = "2GB",
    as_json: Json = False,
) -> None:
    """One HTML page on one or more systems: metrics with intervals, differences, calibration."""
    from recsys.report.report import report as write_report

    found = write_report(
        paths,
        out,
        split=split,
        predictions=predictions,
        fields=fields or (),
        segments=segments or (),
        top=hit_at or (),
        count=resamples,
        memory=memory_limit,
    )
    print_result(found, as_json, lambda console: console.print(f"report: {found['out']}"))

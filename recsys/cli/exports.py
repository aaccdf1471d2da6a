"""Verbs of what is served: one surface of a run."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.arguments import Json, Overrides, print_result


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN|EXPORT", help="Run directory or export.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Request table: folder or file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    as_json: Json = False,
) -> None:
    """Scores a request table: one row a candidate, a column a task."""
    from recsys.export.predict import predict_with

    summary = predict_with(run, table, out)
    print_result(
        summary, as_json, lambda console: console.print(f"{summary['rows']:,} rows in {out}")
    )


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    surface: Annotated[
        list[str] | None, typer.Option(help="Surface to export; several, or none for all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/exports.")] = None,
    embeddings: Annotated[str | None, typer.Option(help="fp32, fp16 or int8 tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Heads to export, comma between.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe: a YAML file, or an export that has one.")
    ] = None,
    aot: Annotated[
        bool, typer.Option("--aot", help="An AOTInductor package too; needs a C++ compiler.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Labelled table for parity. Default: export.split.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Exports a surface as an artefact of its own: OUT/SURFACE/VERSION."""
    from recsys.export.export import export_surfaces
    from recsys.export.show import print_exports

    exports = export_surfaces(
        run, surface, out, recipe, embeddings, tasks, aot=aot, table=data, overrides=overrides
    )
    print_result({"exports": exports}, as_json, lambda console: print_exports(exports, console))


def finetune(
    export: Annotated[
        Path, typer.Argument(metavar="EXPORT", help="An export; or a run, with --surface.")
    ],
    data: Annotated[str, typer.Option(help="Folder of fresh train, valid and test.")],
    surface: Annotated[str | None, typer.Option(help="Its newest export in a run.")] = None,
    mode: Annotated[str | None, typer.Option(help="tower, trunk_top or all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: beside the export.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Goes on training an export on its surface's fresh data: a new version."""
    from recsys.export.finetune import find_artefact
    from recsys.export.finetune import finetune as finetune_export
    from recsys.export.show import print_finetuned, summary

    changes = [*([f"export.finetune.mode={mode}"] if mode else []), *(overrides or [])]
    found = finetune_export(find_artefact(export, surface), data, out, changes)
    result = {**summary(found), "finetune": found.manifest["finetune"]}
    print_result(result, as_json, lambda console: print_finetuned(result, console))


def drift(
    version: Annotated[Path, typer.Argument(metavar="VERSION", help="An export.")],
    data: Annotated[str, typer.Option(help="Fresh request table with labels.")],
    against: Annotated[
        Path | None, typer.Option(help="An export or a run. Default: where VERSION comes from.")
    ] = None,
    rebaseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="If it has drifted: export this run by VERSION's recipe, and compare the two.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """How far a version is from its baseline; exit code 3 means: re-baseline."""
    from recsys.export.artefact import Artefact
    from recsys.rollout.drift import EXIT_CODE, RE_BASELINE, print_drift
    from recsys.rollout.drift import drift as measure
    from recsys.rollout.rebaseline import rebaseline as export_again

    old = Artefact(version)
    result = measure(old, data, against)
    if rebaseline is not None and result["verdict"] == RE_BASELINE:
        result["rebaselined"] = export_again(old, rebaseline, data)
    print_result(result, as_json, lambda console: print_drift(result, console))
    raise typer.Exit(EXIT_CODE[result["verdict"]])

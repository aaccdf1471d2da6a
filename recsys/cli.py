"""The command line: one verb, one function; no logic of its own."""

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from recsys.errors import RankError, RunError, UserError
from recsys.logs import set_up_logging

app = typer.Typer(
    name="recsys",
    help="One engagement model for every product surface, exported once per surface.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make, convert and check request tables.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Overrides one key.")
]
Fields = Annotated[
    list[str] | None, typer.Option("--field", metavar="COLUMN", help="Adds its Field-ECE.")
]
Segments = Annotated[
    list[str] | None,
    typer.Option("--segment", metavar="COLUMN", help="Adds metrics by its values or ranges."),
]


def main() -> None:
    """Runs the command line; exit code 0 done, 2 wrong input, 1 anything else."""
    set_up_logging()
    if "RECSYS_WARNINGS" not in os.environ:
        warnings.filterwarnings("ignore")
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(str(error), 1, alone=isinstance(error, RankError))
    except BrokenPipeError:
        sys.exit(1)


def _fail(message: str, code: int, alone: bool = False) -> None:
    # Unless it is of one rank alone, every rank of a job has the same message.
    if alone or os.environ.get("RANK", "0") == "0":
        print(f"recsys: {message}", file=sys.stderr)
    sys.exit(code)


def _report(document: Any, as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints a result: JSON on stdout, or whatever `show` draws there."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(Console())


def _shown(value: float | None) -> str:
    return "without a value" if value is None else f"{value:.5f}"


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, whether torch, torchrec and fbgemm-gpu match, devices; the fix of each fault."""
    from recsys.doctor import examine, print_examination

    found = examine()
    _report(found, as_json, lambda console: print_examination(found, console))
    if found["faults"]:
        raise typer.Exit(1)


@data_app.command("simulate")
def data_simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    requests: Annotated[int, typer.Option(help="Requests of all splits together.")] = 20_000,
    candidates: Annotated[int, typer.Option(help="Mean candidates a request.")] = 8,
    surfaces: Annotated[int, typer.Option(help="Number of surfaces, 1 to 64.")] = 3,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 0,
    users: Annotated[int | None, typer.Option(help="Number of users.")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items.")] = None,
    drift: Annotated[
        float, typer.Option(help="0 to 1: the same users and items once tastes have moved.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Simulated logs of any size whose true probabilities are known, and a config for them."""
    from recsys.data.recipes.simulate import SimulateOptions, print_best, simulate

    options = SimulateOptions(
        requests=requests,
        candidates=candidates,
        surfaces=surfaces,
        seed=seed,
        users=users,
        items=items,
        drift=drift,
    )
    summary = simulate(out, options)
    _report(summary, as_json, lambda console: print_best(summary, console))


@data_app.command("kuairand")
def data_kuairand(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Unpacked KuaiRand-Pure folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    as_json: Json = False,
) -> None:
    """The official KuaiRand-Pure files as a request table, split by day."""
    from recsys.data.recipes.kuairand import build

    summary = build(raw, out)
    _report(summary, as_json, lambda console: console.print_json(data=summary))


@data_app.command("group")
def data_group(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Impressions: Parquet file(s).")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    config: Annotated[Path, typer.Option("--config", help="A config with data.group.")],
    overrides: Overrides = None,
    memory_limit: Annotated[str | None, typer.Option(help="DuckDB's, for example 4GB.")] = None,
    as_json: Json = False,
) -> None:
    """An impression log (one row a candidate) as a request table, out of core."""
    from recsys.config import load_config
    from recsys.data.recipes.group import group

    options = load_config(config, overrides or ()).data.group
    if options is None:
        raise UserError(f"{config}: data.group: missing; it names the columns of the impressions")
    summary = group(table, out, options, memory_limit=memory_limit)
    _report(summary, as_json, lambda console: console.print_json(data=summary))


@data_app.command("unroll")
def data_unroll(
    config: ConfigFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    label: Annotated[
        list[str] | None, typer.Option(help="TASK=SQL over an event's fields; may be repeated.")
    ] = None,
    together: Annotated[int, typer.Option(min=1, help="Events that are one request.")] = 10,
    held_out: Annotated[float, typer.Option(help="Share of users in the valid split.")] = 0.05,
    overrides: Overrides = None,
    memory_limit: Annotated[str | None, typer.Option(help="DuckDB's, for example 4GB.")] = None,
    as_json: Json = False,
) -> None:
    """Histories as requests to pretrain on, each event a candidate, and a config for them."""
    from recsys.config import load_config
    from recsys.data.recipes.unroll import labels_of, unroll

    summary = unroll(
        load_config(config, overrides or ()),
        out,
        labels_of(label or ()),
        together=together,
        held_out=held_out,
        memory_limit=memory_limit,
    )
    _report(summary, as_json, lambda console: console.print_json(data=summary))


@data_app.command("check")
def data_check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Reads every split against the schema: counts per surface and task, or every fault."""
    from recsys.config import load_config
    from recsys.data.check import check
    from recsys.data.show import print_check

    result = check(load_config(config, overrides or ()))
    _report(result, as_json, lambda console: print_check(result, console))
    if result["faults"]:
        raise UserError(f"{config}: {len(result['faults'])} fault(s) in the data, listed above")


@app.command()
def train(
    config: ConfigFile,
    run: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/NAME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A sharding plan, made by recsys plan --out.")
    ] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Another run, to start from its weights where they match."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Trains one model on all surfaces; one process, or a rank under torchrun or TorchX."""
    from recsys.config import load_config
    from recsys.training.train import train as train_model

    warm = [f"training.warm_start={warm_start}"] if warm_start else []
    experiment = load_config(config, [*(overrides or ()), *warm])
    path = run or Path("runs") / experiment.name
    summary = train_model(experiment, path, resume=resume, plan=plan)
    _report(
        summary,
        as_json,
        lambda console: console.print(
            f"{summary['steps']} steps, {summary['candidates']:,} candidates; best valid "
            f"{summary['monitor']} {_shown(summary['best_value'])} at step {summary['best_step']}; "
            f"next: recsys evaluate {path}",
            soft_wrap=True,
        ),
    )


@app.command()
def plan(
    config: ConfigFile,
    topologies: Annotated[
        list[str],
        typer.Option(
            "--topology",
            metavar="NODESxRANKSxDEVICE|FILE",
            help="For example 2x8xH100. Several are compared with the first.",
        ),
    ],
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Compare 1, 8, 16, 64 and 256 ranks too.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure plans by training steps on this machine.")
    ] = False,
    plans: Annotated[int, typer.Option(help="--tune: how many plans.")] = 8,
    rounds: Annotated[int, typer.Option(help="--tune: how often each, by turns.")] = 7,
    steps: Annotated[int, typer.Option(help="--tune: steps of one measurement.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Write plan.json for recsys train --plan.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML file.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """How the tables are sharded, what it costs, and what to change if they do not fit."""
    from recsys.config import load_config
    from recsys.sharding.answer import answer, tuned
    from recsys.sharding.show import print_report
    from recsys.sharding.tune.show import print_tuning

    experiment = load_config(config, overrides or ())
    if tune:
        given = {"--html": html, "--what-if": what_if, "a second --topology": topologies[1:]}
        for option, value in given.items():
            if value:
                raise UserError(f"{option}: not with --tune; leave one of them out")
        found = tuned(experiment, topologies[0], plans=plans, rounds=rounds, steps=steps, out=out)
        _report(found, as_json, lambda console: print_tuning(found, console))
        return
    report = answer(experiment, topologies, what_if=what_if, out=out, html=html)
    _report(report, as_json, lambda console: print_report(report, console))
    if not report["fits"]:
        raise typer.Exit(1)


@app.command()
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
    _report(metrics, as_json, lambda console: print_metrics(metrics, console))


@app.command()
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
    _report(found, as_json, lambda console: print_calibration(found, console))


@app.command()
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
    _report(found, as_json, lambda console: console.print(f"report: {found['out']}"))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN|EXPORT", help="Run directory or export.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Request table: folder or file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    as_json: Json = False,
) -> None:
    """Scores a request table: one row a candidate, a column a task."""
    from recsys.export.predict import predict_with

    summary = predict_with(run, table, out)
    _report(summary, as_json, lambda console: console.print(f"{summary['rows']:,} rows in {out}"))


@app.command()
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
    _report({"exports": exports}, as_json, lambda console: print_exports(exports, console))


@app.command()
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
    _report(result, as_json, lambda console: print_finetuned(result, console))


@app.command()
def ablate(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of the tables.")],
    study: Annotated[
        Path | None, typer.Option(help="YAML of variants. Default: the standard ones.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma between. Default: 1,2,3.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A variant; several.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 1,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """What the parts of a model are worth: variants over seeds, and their paired differences."""
    from recsys.ablation.ablate import ablate as ablate_config
    from recsys.ablation.ablate import parse_seeds
    from recsys.ablation.show import markdown

    found = ablate_config(
        config,
        out,
        study=study,
        overrides=overrides or (),
        seeds=parse_seeds(seeds),
        only=only or (),
        split=split,
        workers=workers,
    )

    def show(console: Console) -> None:
        console.print(Markdown(markdown(found, every_surface=False)))
        console.print(f"each surface: {out / 'ablation.md'}; plots: {out / 'ablation.html'}")

    _report(found, as_json, show)


@app.command()
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
    _report(result, as_json, lambda console: print_drift(result, console))
    raise typer.Exit(EXIT_CODE[result["verdict"]])


if __name__ == "__main__":
    main()

"""Verbs that train, and plan for it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from recsys.cli.arguments import ConfigFile, Json, Overrides, print_result, shown
from recsys.errors import UserError


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
    print_result(
        summary,
        as_json,
        lambda console: console.print(
            f"{summary['steps']} steps, {summary['candidates']:,} candidates; best valid "
            f"{summary['monitor']} {shown(summary['best_value'])} at step {summary['best_step']}; "
            f"next: recsys evaluate {path}",
            soft_wrap=True,
        ),
    )


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
        print_result(found, as_json, lambda console: print_tuning(found, console))
        return
    report = answer(experiment, topologies, what_if=what_if, out=out, html=html)
    print_result(report, as_json, lambda console: print_report(report, console))
    if not report["fits"]:
        raise typer.Exit(1)


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

    print_result(found, as_json, show)

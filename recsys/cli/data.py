"""`recsys data …`: make, convert and check request tables."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.arguments import ConfigFile, Json, Overrides, print_result
from recsys.errors import UserError

data_app = typer.Typer(help="Make, convert and check request tables.", no_args_is_help=True)


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
    print_result(summary, as_json, lambda console: print_best(summary, console))


@data_app.command("kuairand")
def data_kuairand(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Unpacked KuaiRand-Pure folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    train_first: Annotated[int, typer.Option(help="First day of train, YYYYMMDD.")] = 20220425,
    valid_first: Annotated[int, typer.Option(help="First day of valid.")] = 20220504,
    test_first: Annotated[int, typer.Option(help="First day of test.")] = 20220506,
    test_last: Annotated[int, typer.Option(help="Last day of test.")] = 20220508,
    request_gap: Annotated[
        float, typer.Option(help="Seconds without an impression that end a request.")
    ] = 10.0,
    history_length: Annotated[int, typer.Option(help="Latest events kept.")] = 50,
    keep_other_tabs: Annotated[
        bool, typer.Option("--keep-other-tabs", help="Every tab, not 0, 1, 2, 4 and 6 alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The official KuaiRand-Pure files as a request table, split by day."""
    from recsys.data.recipes.kuairand import KuaiRandOptions, build

    options = KuaiRandOptions(
        train_first=train_first,
        valid_first=valid_first,
        test_first=test_first,
        test_last=test_last,
        request_gap_seconds=request_gap,
        history_length=history_length,
        keep_other_tabs=keep_other_tabs,
    )
    summary = build(raw, out, options)
    print_result(summary, as_json, lambda console: console.print_json(data=summary))


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
    print_result(summary, as_json, lambda console: console.print_json(data=summary))


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
    print_result(summary, as_json, lambda console: console.print_json(data=summary))


@data_app.command("check")
def data_check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Reads every split against the schema: counts per surface and task, or every fault."""
    from recsys.config import load_config
    from recsys.data.check import check
    from recsys.data.show import print_check

    result = check(load_config(config, overrides or ()))
    print_result(result, as_json, lambda console: print_check(result, console))
    if result["faults"]:
        raise UserError(f"{config}: {len(result['faults'])} fault(s) in the data, listed above")

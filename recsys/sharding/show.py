"""A plan's report for people."""

from typing import TYPE_CHECKING, Any

import yaml

from recsys.sharding.units import show_bytes, show_count, show_ms

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MEMORY = {"hbm": "HBM", "ddr": "DDR"}
MOST_RANKS = 16  # shown one by one


def print_report(report: dict[str, Any], console: "Console") -> None:
    """Draws what `inquire` returned."""
    if not console.is_terminal:  # a file has no width; its tables need not be cut
        console.width = max(console.width, 150)
    topology, lengths = report["topology"], report["workload"]
    device = topology["device"]
    console.print(
        f"[bold]{report['config']}[/bold] on [bold]{topology['label']}[/bold]: "
        f"{topology['world']} ranks, {topology['ranks_per_node']} a host; "
        + (f"{device['hbm_gib']:g} GiB HBM a rank, " if device["hbm_gib"] else "")
        + f"{device['ddr_gib']:g} GiB DDR a host"
    )
    ids = ", ".join(f"{key} {mean:.3g}" for key, mean in lengths["ids"].items())
    console.print(
        f"A rank's batch: {lengths['requests_per_batch']:,} requests × "
        f"{lengths['candidates_per_request']:.3g} candidates, "
        f"history {lengths['history_length']:.3g}" + (f"; ids in a list: {ids}" if ids else ""),
        highlight=False,
    )
    console.print(f"Lengths: {lengths['source']}\n", highlight=False, markup=False)
    if report["fits"]:
        _print_fit(report, console)
    else:
        _print_unfit(report, console)
    if report.get("what_if"):
        console.print(_what_if(report["what_if"]))


def _print_fit(report: dict[str, Any], console: "Console") -> None:
    console.print(_tables(report["tables"]))
    console.print(_ranks(report["ranks"]))
    totals, uneven, binds = report["totals"], report["imbalance"], report["binds"]
    console.print(
        f"Together: {totals['tables']} tables, {show_count(totals['rows'])} rows, "
        f"{show_bytes(totals['weight_bytes'])} of weights and "
        f"{show_bytes(totals['optimizer_bytes'])} of optimizer state; "
        f"{show_count(totals['lookups_per_rank'])} lookups a rank and step",
        highlight=False,
    )
    time, memory = binds["time"], binds["memory"]
    console.print(
        f"Estimated step: [bold]{show_ms(report['step_ms'])}[/bold] for the tables, without the "
        f"dense part. It waits for the {time['what']} of rank {time['rank']}, most for table "
        f"{time['table']} ({time['share_of_rank']:.0%} of that rank's time)",
        highlight=False,
    )
    console.print(
        f"Fullest: {MEMORY[memory['what']]} of rank {memory['rank']}, "
        f"{memory['used_of_usable']:.0%} of what tables may take, most by table {memory['table']} "
        f"({memory['share_of_rank']:.0%})",
        highlight=False,
    )
    console.print(
        f"Imbalance, largest ÷ mean over ranks: time {uneven['time']:.2f}, memory "
        f"{uneven['memory']:.2f}. Planned in {report['planning_seconds']:.1f} s",
        highlight=False,
    )


def _table(title: str, *columns: str, left: int = 1) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def _tables(tables: dict[str, Any]) -> "Table":
    shown = _table(
        "Tables", "table", "sharding", "kernel", "ranks", "rows", "dim", "weights",
        "optimizer", "lookups/rank", "slowest rank", left=3,
    )  # fmt: skip
    for name, table in tables.items():
        kernel = table["compute_kernel"]
        if table["cache_load_factor"]:
            kernel += f" {table['cache_load_factor']:g}"
        if table["dtype"] != "fp32":
            kernel += f" {table['dtype']}"
        shown.add_row(
            name,
            table["sharding_type"],
            kernel,
            show_ranks(table["ranks"]),
            show_count(table["rows"]),
            str(table["dim"]),
            show_bytes(table["weight_bytes"]),
            show_bytes(table["optimizer_bytes"]),
            show_count(table["lookups_per_rank"]),
            show_ms(table["rank_ms"]),
        )
    return shown


def show_ranks(ranks: list[int]) -> str:
    """`3`, `0–7`, or `0, 2, 5`; the number of them if there are many."""
    if len(ranks) == 1:
        return str(ranks[0])
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}–{ranks[-1]}"
    return ", ".join(map(str, ranks)) if len(ranks) <= 4 else f"{len(ranks)} ranks"


def _ranks(ranks: list[dict[str, Any]]) -> "Table":
    memories = [m for m in MEMORY if any(rank[f"{m}_used"] for rank in ranks)]
    columns = [f"{MEMORY[m]} {what}" for m in memories for what in ("used", "kept", "free")]
    shown = _table("Ranks", "rank", "shards", *columns, "lookups", "exchange", "together")
    # Of many ranks the slowest: the others have less to do.
    some = sorted(ranks, key=lambda rank: -rank["total_ms"])[:MOST_RANKS]
    chosen = ranks if len(ranks) <= MOST_RANKS else some
    for rank in chosen:
        sizes = [
            show_bytes(rank[f"{m}_{x}"]) for m in memories for x in ("used", "reserved", "free")
        ]
        times = [show_ms(rank[name]) for name in ("lookup_ms", "communication_ms", "total_ms")]
        shown.add_row(str(rank["rank"]), str(rank["shards"]), *sizes, *times)
    if len(ranks) > MOST_RANKS:
        shown.caption = f"the {MOST_RANKS} slowest of {len(ranks)} ranks; --json has all"
    return shown


def _print_unfit(report: dict[str, Any], console: "Console") -> None:
    console.print(f"[red]Does not fit.[/red] {report['reason']}\n", highlight=False)
    shown = _table("What was tried", "change", "fits", "ranks", "est. step", "imbalance", left=2)
    shown.add_column("note")
    for change in report["changes"]:
        shown.add_row(
            change["change"],
            "[green]yes[/green]" if change["fits"] else "[red]no[/red]",
            str(change["world"]),
            show_ms(change["step_ms"]) if change["fits"] else "–",
            f"{change['imbalance']['time']:.2f}" if change["fits"] else "–",
            change["note"],
        )
    console.print(shown)
    best = next((change for change in report["changes"] if change["fits"]), None)
    if best is None:
        console.print("Nothing that was tried fits: make tables smaller, or use larger devices")
        return
    console.print(
        f"Cheapest by ranks, then by estimated time: [bold]{best['change']}[/bold] on "
        f"{best['topology']}, {show_ms(best['step_ms'])} a step",
        highlight=False,
    )
    if best["dtypes"]:
        tables = ", ".join(f"{name} {dtype}" for name, dtype in best["dtypes"].items())
        console.print(f"Set tables.NAME.dtype: {tables}", markup=False, highlight=False)
    if best["constraints"]:
        console.print("To paste into the configuration:")
        text = show_constraints(best["constraints"])
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_constraints(constraints: dict[str, Any]) -> str:
    """The YAML of `sharding.constraints`, one line a table."""
    lines = ["sharding:", "  constraints:"]
    for table, fields in constraints.items():
        text = yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10_000)
        lines.append(f"    {table}: {text.strip()}")
    return "\n".join(lines)


def _what_if(lines: list[dict[str, Any]]) -> "Table":
    shown = _table(
        "\nWhat if", "topology", "fits", "ranks", "est. step", "imbalance", "fullest memory", left=2
    )
    for line in lines:
        if line["fits"]:
            fullest = line["fullest"]
            rest = (
                show_ms(line["step_ms"]),
                f"{line['imbalance']['time']:.2f}",
                f"{MEMORY[fullest['memory']]} {fullest['used_of_usable']:.0%}",
            )
        else:
            rest = ("–", "–", "–")
        fits = "[green]yes[/green]" if line["fits"] else "[red]no[/red]"
        shown.add_row(line["topology"], fits, str(line["world"]), *rest)
    return shown

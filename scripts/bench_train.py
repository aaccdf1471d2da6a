"""How fast training is, each part next to what it is to be compared with.

    python scripts/bench_train.py [--only b,c,d,e] [--rounds 5] [--quick] [--json]

b: `recsys train` end to end against a loop written by hand. c: candidates grouped by request
against the same rows flattened. d: more surfaces at the same rows. e: a larger table.

Everything runs on one core with one thread; what is compared takes turns. Times are CPU time of
the process, all its threads included, so that what else the machine does counts little; ratios are
medians over rounds. `*_wall` is by the clock.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from bench.timing import use_one_core
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False)


def parts(rounds: int, quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by their letters."""
    from bench.end_to_end import end_to_end
    from bench.layouts import layouts
    from bench.surfaces import surfaces
    from bench.table_rows import table_rows

    if quick:
        return {
            "b": lambda: end_to_end(rounds, requests=50_000),
            "c": lambda: layouts(rounds, batches=(480,)),
            "d": lambda: surfaces(rounds, batches=1),
            "e": lambda: table_rows(rounds, batches=10),
        }
    return {
        "b": lambda: end_to_end(rounds),
        "c": lambda: layouts(rounds),
        "d": lambda: surfaces(rounds),
        "e": lambda: table_rows(rounds),
    }


def flat(document: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested results as `a.b.c`, value."""
    found: list[tuple[str, Any]] = []
    for key, value in document.items():
        name = f"{prefix}{key}"
        found += flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return found


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Parts, separated by commas")] = "b,c,d,e",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Few rows: checks that all runs")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measures training."""
    use_one_core()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    available = parts(rounds, quick)
    letters = [letter for letter in only.split(",") if letter]
    if unknown := [letter for letter in letters if letter not in available]:
        print(f"--only {only}: no part {unknown[0]}; there are b, c, d and e", file=sys.stderr)
        raise typer.Exit(2)
    results = {letter: {"rounds": rounds, **available[letter]()} for letter in letters}
    if as_json:
        print(json.dumps(results))
        return
    for letter, result in results.items():
        table = Table("", "value", title=f"({letter})")
        for name, value in flat(result):
            table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
        Console().print(table)


if __name__ == "__main__":
    # Read by the libraries when they are first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()

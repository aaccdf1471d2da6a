"""How large exports are, and how fast they score one request, each next to what it replaces.

    python scripts/bench_export.py [--repeats 300] [--aot] [--quick] [--json]

Runs of a few steps on random logs are exported as `recsys export` does it: weights and labels do
not matter to size and speed. One request of 1, 100 and 500 candidates after 50 and 500 events is
scored

- by the joint model of three surfaces, and by its view of one surface, both in eager mode
- by the surface's export: fp32, fp16, int8, and with --aot compiled by AOTInductor
- by the fp32 export that does not check its inputs (unchecked)
- by the export of a model that was trained for that surface alone (dedicated)
- by the export, each candidate as a request of its own with the history again (flattened)
- by the same surface's export out of a model of 24 surfaces (of_24)

All by turns, on one core with one thread; encoding is left out. Ratios are of CPU time. Sizes are
those of `model.pt2` against the joint run's checkpoint.
"""

import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from bench.timing import use_one_core
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False)
PAIRS = {
    "joint_eager/view_eager": ("joint_eager", "view_eager"),
    "joint_eager/export": ("joint_eager", "fp32"),
    "export/dedicated": ("fp32", "dedicated"),
    "eager/export": ("view_eager", "fp32"),
    "export/unchecked": ("fp32", "unchecked"),
    "export/aot": ("fp32", "aot"),
    "int8/fp32": ("int8", "fp32"),
    "flattened/grouped": ("flattened", "fp32"),
    "of_24/of_3": ("of_24", "fp32"),
}


def measure(folder: Path, repeats: int, aot: bool, quick: bool) -> dict[str, Any]:
    """All results."""
    from bench.exports import (
        SURFACE,
        Request,
        contestants,
        export_of,
        latencies,
        make_run,
        ratios,
        size_of,
        sizes,
    )

    run = make_run(folder / "three", 3)
    artefacts = {
        "fp32": export_of(run, folder / "exports", aot=aot),
        "fp16": export_of(run, folder / "exports", embeddings="fp16"),
        "int8": export_of(run, folder / "exports", embeddings="int8"),
    }
    results: dict[str, Any] = {"sizes": sizes(run, artefacts, folder / "all")}
    dedicated = make_run(folder / "three", 3, only=SURFACE)
    many = make_run(folder / "many", 24)
    artefacts["dedicated"] = export_of(dedicated, folder / "dedicated")
    artefacts["of_24"] = export_of(many, folder / "of_24")
    results["sizes"]["of_24/of_3"] = size_of(artefacts["of_24"]) / size_of(artefacts["fp32"])
    results["requests"] = {}
    for history in (50,) if quick else (50, 500):
        for candidates in (1, 100) if quick else (1, 100, 500):
            calls = contestants(run, artefacts, Request(candidates, history), folder / "requests")
            found = latencies(calls, candidates, repeats)
            found["ratios"] = dict(ratios(found, PAIRS))
            results["requests"][f"{candidates} candidates, {history} events"] = found
    return results


def show(results: dict[str, Any], console: Console) -> None:
    """Tables of sizes, latencies and ratios."""
    console.print_json(data=results["sizes"])
    for request, found in results["requests"].items():
        table = Table("", title=request)
        times = ("p50 ms", "p99 ms", "CPU p50 ms", "CPU p99 ms")
        for heading in ("calls", *times, "candidates/s of CPU"):
            table.add_column(heading, justify="right")
        for name, values in found.items():
            if name != "ratios":
                table.add_row(name, *(f"{value:,.2f}" for value in values.values()))
        console.print(table)
        for name, values in found["ratios"].items():
            console.print(f"{name}: p50 {values['p50']:.3f}, p99 {values['p99']:.3f}")


@app.command()
def main(
    repeats: Annotated[int, typer.Option(min=2, help="Calls of each")] = 300,
    aot: Annotated[bool, typer.Option("--aot", help="Compiled too; takes minutes")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few calls: checks that all runs")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measures exports."""
    use_one_core()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), 5 if quick else repeats, aot, quick)
    if as_json:
        print(json.dumps({"repeats": 5 if quick else repeats, **results}))
    else:
        show(results, Console())


if __name__ == "__main__":
    # Read by the libraries when they are first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()

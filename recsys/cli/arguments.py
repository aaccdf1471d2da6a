"""What several verbs take, and how they print what they found."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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


def print_result(document: Any, as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints a result: JSON on stdout, or whatever `show` draws there."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(Console())


def shown(value: float | None) -> str:
    return "without a value" if value is None else f"{value:.5f}"

"""From the options of `recsys plan` to its report and files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.config import Config
from recsys.errors import UserError
from recsys.files import write_json, write_text
from recsys.sharding.html import html_report
from recsys.sharding.inquiry import inquire
from recsys.sharding.inquiry import what_if as usual
from recsys.sharding.topology import parse_topology
from recsys.sharding.tune import tune
from recsys.sharding.tune.measure import Effort


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Shows on stderr what is being planned; a function that is told its name."""
    from rich.console import Console

    with Console(stderr=True).status("Planning …") as shown:
        yield lambda name: shown.update(f"Planning: {name} …")


def tuned(
    config: Config,
    topology: str,
    *,
    plans: int,
    rounds: int,
    steps: int,
    out: Path | None = None,
) -> dict[str, Any]:
    """Searches and measures plans on this machine's ranks; writes the better one to `out`.

    Raises `UserError` for a topology that is not at hand, or if there is no data.
    """
    for name, value in (("--rounds", rounds), ("--steps", steps)):
        if value < 1:
            raise UserError(f"{name} {value}: at least 1")
    with status() as begun:
        effort = Effort(rounds, steps)
        found = tune(config, parse_topology(topology), plans=plans, effort=effort, begun=begun)
        document = found.document()
    try:
        if out:
            write_json(out, document["plan"])
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return document


def answer(
    config: Config,
    topologies: list[str],
    *,
    what_if: bool = False,
    out: Path | None = None,
    html: Path | None = None,
) -> dict[str, Any]:
    """The report on the first of `topologies`, compared with the others and, if asked, with the
    usual ones; a status line on a terminal while it plans.

    Writes the page to `html`, and the plan to `out` if one fits. Raises `UserError` for an unknown
    topology, or if a file cannot be written.
    """
    clusters = [parse_topology(each) for each in topologies]
    others = clusters if len(clusters) > 1 else []
    if what_if:
        others = [*others, *usual(clusters[0])]
    with status() as begun:
        report = inquire(config, clusters[0], others=others, begun=begun)
    try:
        if html:
            write_text(html, html_report(report))
        if out and report["fits"]:
            write_json(out, report["plan"])
    except OSError as error:
        raise UserError(f"{out or html}: cannot be written ({error.strerror})") from None
    return report

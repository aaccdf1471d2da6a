"""A tuning for people."""

from typing import TYPE_CHECKING, Any

from recsys.sharding.show import show_constraints
from recsys.sharding.units import show_ms

if TYPE_CHECKING:
    from rich.console import Console

VERDICTS = {
    "faster": "the winner is faster",
    "slower": "the winner is slower: its first measurements flattered it; keep the default",
    "no difference": "no difference: keep the default",
}


def print_tuning(found: dict[str, Any], console: "Console") -> None:
    """Draws what `Tuning.document` returned: estimate against measurement, then the verdict."""
    from rich.table import Table

    if not console.is_terminal:
        console.width = max(console.width, 150)
    table = Table(
        title=f"{found['config']} on {found['topology']}: {len(found['plans'])} of "
        f"{found['plans_found']} plans measured in {found['rounds']} rounds of {found['steps']} "
        "steps",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for name in ("", "plan", "tables", "estimate", "measured", "÷ default", "interval 95 %"):
        table.add_column(
            name, justify="left" if name in ("", "plan", "tables") else "right", no_wrap=True
        )
    order = sorted(range(len(found["plans"])), key=lambda n: found["plans"][n]["estimate_ms"])
    for number in order:
        line = found["plans"][number]
        low, high = line["interval"]
        table.add_row(
            "*" if number == found["winner"] else "",
            line["origin"],
            line["kinds"],
            show_ms(line["estimate_ms"]),
            show_ms(line["measured_ms"]),
            f"{line['speed_up']:.3f}×",
            "" if number == 0 else f"{low:.3f} – {high:.3f}",
        )
    console.print(table)
    correlation = found["rank_correlation"]
    if correlation["spearman"] is not None:
        console.print(
            f"Estimate against measurement: Spearman's ρ {correlation['spearman']:.2f} "
            f"(p {correlation['p_value']:.2g}). Estimates are of the tables alone, measurements of "
            "whole steps",
            highlight=False,
        )
    again = found["confirmation"]
    low, high = again["interval"]
    console.print(
        f"Measured again, {again['rounds']} rounds of the default and the winner alone: "
        f"[bold]{again['speed_up']:.3f}×[/bold] ({low:.3f} – {high:.3f}): "
        f"[bold]{VERDICTS[again['verdict']]}[/bold]",
        highlight=False,
    )
    if not found["constraints"]:
        return
    same = found["constraints_make_this_plan"]
    console.print(
        "To paste into the configuration"
        + (":" if same else " (ranks may differ: for this very plan use --out and train --plan):")
    )
    console.print(
        show_constraints(found["constraints"]), markup=False, highlight=False, soft_wrap=True
    )

"""A plan's report as one HTML file: bars of every rank's memory and time, nothing to fetch."""

from html import escape
from io import StringIO
from typing import Any

from recsys.page import page
from recsys.sharding.units import show_bytes, show_ms

STYLE = """
svg text{font-size:11px;fill:var(--soft)} .key{margin-right:1.5rem;white-space:nowrap}
.key i{display:inline-block;width:.8em;height:.8em;margin-right:.4em}
"""
COLOURS = ("var(--c0)", "var(--c5)", "var(--grid)", "var(--c1)")
WIDTH, LEFT, RIGHT, STEP, BAR = 900, 60, 150, 16, 11


def html_report(report: dict[str, Any]) -> str:
    """The page: bars, then the report as text."""
    title = f"{report['config']} on {report['topology']['label']}"
    parts = []
    if report["fits"]:
        ranks = report["ranks"]
        for memory, name in (("hbm", "Device memory (HBM)"), ("ddr", "Host memory (DDR)")):
            if any(rank[f"{memory}_total"] for rank in ranks):
                fields = {"tables": f"{memory}_used", "reserved": f"{memory}_reserved"}
                limit = max(rank[f"{memory}_total"] for rank in ranks)
                parts += [f"<h2>{name} of each rank</h2>", _bars(ranks, fields, limit, show_bytes)]
        fields = {"lookups": "lookup_ms", "exchange": "communication_ms"}
        slowest = max(rank["total_ms"] for rank in ranks)
        uneven = report["imbalance"]["time"]
        parts += [
            f"<h2>Estimated time of each rank</h2><p>A step waits for the slowest; largest ÷ mean "
            f"{uneven:.2f}.</p>",
            _bars(ranks, fields, slowest, show_ms),
        ]
    parts += ["<h2>Report</h2>", f"<pre>{escape(_text(report))}</pre>"]
    return page(title, parts, STYLE)


def _bars(ranks: list[dict[str, Any]], fields: dict[str, str], limit: float, show: Any) -> str:
    """One stacked bar a rank, as long as its share of `limit`."""
    colours = COLOURS[:2] if "reserved" in fields else (COLOURS[0], COLOURS[3])
    scale = (WIDTH - LEFT - RIGHT) / (limit or 1)
    height = STEP * len(ranks) + 4
    drawn = []
    for number, rank in enumerate(ranks):
        top, x = number * STEP + 2, float(LEFT)
        drawn.append(f'<text x="{LEFT - 6}" y="{top + 9}" text-anchor="end">{rank["rank"]}</text>')
        drawn.append(
            f'<rect x="{LEFT}" y="{top}" width="{limit * scale:.1f}" height="{BAR}" '
            f'fill="{COLOURS[2]}"/>'
        )
        for (name, field), colour in zip(fields.items(), colours, strict=True):
            width = rank[field] * scale
            drawn.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}">'
                f"<title>rank {rank['rank']}, {name}: {escape(show(rank[field]))}</title></rect>"
            )
            x += width
        total = show(
            rank[next(iter(fields.values()))] if "reserved" in fields else rank["total_ms"]
        )
        drawn.append(f'<text x="{WIDTH - RIGHT + 8}" y="{top + 9}">{escape(total)}</text>')
    keys = "".join(
        f'<span class="key"><i style="background:{colour}"></i>{name}</span>'
        for name, colour in zip(fields, colours, strict=True)
    )
    return (
        f"<p>{keys}</p>\n"
        f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">'
        + "".join(drawn)
        + "</svg>"
    )


def _text(report: dict[str, Any]) -> str:
    from rich.console import Console

    from recsys.sharding.show import print_report

    file = StringIO()
    print_report(report, Console(file=file, width=160))
    return file.getvalue()

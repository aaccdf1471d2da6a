"""Small pieces of the page: tables in their own scrollers, heat maps, grids of drawings."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;width:100%}
th,td{padding:.28rem .6rem;text-align:right;white-space:nowrap;vertical-align:top}
th{font-weight:600;background:var(--shade);vertical-align:bottom}
th:first-child,.name{text-align:left} tr+tr td{border-top:1px solid var(--grid)}
td small{display:block;color:var(--soft);font-size:11px}
tr.group td{border-top:1px solid var(--line)} .good{color:var(--good)} .bad{color:var(--bad)}
.warn{color:var(--warn)} td.heat{text-align:center} .scroll.fit{width:fit-content;max-width:100%}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:.6rem;
margin:.8rem 0}
.grid>svg{width:100%;height:auto} .flags li{margin:.3rem 0} details{margin:.6rem 0}
summary{cursor:pointer;font-weight:600} .key{white-space:nowrap;margin-right:1rem}
.key i{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin-right:.35em}
"""

NO_VALUE = '<span class="soft">–</span>'


class Raw(str):
    """Text that is HTML already."""


def text(value: object) -> str:
    return value if isinstance(value, Raw) else escape(str(value))


def anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def section(title: str, *parts: str) -> str:
    return (
        f'<section><h2 id="{anchor(title)}">{escape(title)}</h2>\n'
        + "\n".join(parts)
        + "</section>"
    )


def contents(titles: Sequence[str]) -> str:
    listed = "".join(f'<li><a href="#{anchor(t)}">{escape(t)}</a></li>' for t in titles)
    return f"<nav><ol>{listed}</ol></nav>"


def subheading(words: str) -> str:
    return f"<h3>{escape(words)}</h3>"


def paragraph(words: str) -> str:
    """`words` may have HTML."""
    return f"<p>{words}</p>"


def grid(drawings: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(drawings)}</div>' if drawings else ""


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, names: int = 1, fit: bool = False
) -> str:
    """A table in a scroller of its own; the first `names` columns are words. A row that repeats the
    first word of the row above leaves it out."""
    head = "".join(
        f"<th{' class=name' if at < names else ''}>{text(heading)}</th>"
        for at, heading in enumerate(headings)
    )
    body: list[str] = []
    before: object = None
    for row in rows:
        first = row[0] if names > 1 and row[0] == before else None
        cells = []
        for at, cell in enumerate(row):
            shown = "" if first is not None and at == 0 else text(cell)
            cells.append(f'<td class="name">{shown}</td>' if at < names else f"<td>{shown}</td>")
        group = names > 1 and row[0] != before
        body.append(f"<tr{' class=group' if group else ''}>{''.join(cells)}</tr>")
        before = row[0]
    classes = "scroll fit" if fit else "scroll"
    return (
        f'<div class="{classes}" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def heat(
    headings: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]], *,
    most: float, signed: bool = False, marked: Sequence[int] = (), diagonal: bool = False,
) -> str:  # fmt: skip
    """A heat map as a table. Colour is |value| / `most`; with `signed`, below 0 has another one.

    Columns `marked` are headed in red; with `diagonal`, the diagonal has no colour.
    """
    head = "<th></th>" + "".join(
        f"<th{' class=bad' if i in marked else ''}>{text(h)}</th>" for i, h in enumerate(headings)
    )
    body = []
    for at, (name, values) in enumerate(rows):
        cells = [f'<td class="name">{text(name)}</td>']
        for i, value in enumerate(values):
            if value is None:
                cells.append(f'<td class="heat">{NO_VALUE}</td>')
                continue
            strength = min(abs(value) / most, 1) * 0.7 if most else 0
            colour = "minus" if signed and value < 0 else "plus"
            style = f"background:rgba(var(--{colour}),{strength:.2f})"
            if diagonal and i == at:
                style = "color:var(--soft)"
            cells.append(f'<td class="heat" style="{style}">{value:.2f}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll fit" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def estimate(found: Mapping[str, Any] | None, digits: int = 4, sign: bool = False) -> Raw:
    """A value with its interval under it."""
    if found is None or found["value"] is None:
        return Raw(NO_VALUE)
    shown = f"{found['value']:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    if found["low"] is None:
        return Raw(f"{shown}<small>no interval</small>")
    low, high = (f"{found[end]:.{digits}f}".replace("-", "−") for end in ("low", "high"))
    return Raw(f"{shown}<small>{low} … {high}</small>")


def keys(names: Sequence[str]) -> str:
    """Which colour is which system."""
    if len(names) < 2:
        return ""
    shown = "".join(
        f'<span class="key"><i style="background:var(--c{i % 8})"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f"<p>{shown}</p>"

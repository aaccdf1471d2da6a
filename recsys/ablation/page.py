"""A study's result as a page: what parts gain together and apart, and every variant, drawn."""

from collections.abc import Mapping
from html import escape
from typing import Any

from recsys.ablation.show import heading, interval, seeds
from recsys.page import page
from recsys.report.html import (
    NO_VALUE,
    STYLE,
    Raw,
    contents,
    estimate,
    grid,
    keys,
    paragraph,
    section,
    table,
)
from recsys.report.plots import intervals

# Key of a line of the composition → how it is called.
PARTS = {
    "mixture": "MMoE alone",
    "history": "history alone",
    "apart": "the sum of both",
    "together": "both together",
    "more_than_apart": "more than the sum",
}


def html(document: dict[str, Any]) -> str:
    """The whole page."""
    sections = {
        "Together and apart": _composition(document),
        **{
            f"{heading(metric)} of each variant": _variants(document, metric)
            for metric in next(iter(document["variants"].values()))
        },
    }
    kept = {title: parts for title, parts in sections.items() if parts}
    drawn = [section(title, *parts) for title, parts in kept.items()]
    about = paragraph(f"{escape(document['split'])} split, {seeds(document)}.")
    title = f"What the parts of {document['config']} are worth"
    return page(title, [about, contents(list(kept)), *drawn], STYLE)


def _composition(document: dict[str, Any]) -> list[str]:
    """A drawing a metric and task, a colour for the merged logs and one for those apart."""
    lines = document["composition"]
    if not lines:
        return []
    logs = list(dict.fromkeys(line["logs"] for line in lines))
    drawings = []
    for metric, task in dict.fromkeys((line["metric"], line["task"]) for line in lines):
        own = {
            line["logs"]: line for line in lines if (line["metric"], line["task"]) == (metric, task)
        }
        systems = [
            (name, {PARTS[key]: {"gain": _estimate(own[name][key])} for key in PARTS})
            for name in logs
            if name in own
        ]
        title = f"{heading(metric)} of {task}, gain"
        drawings.append(intervals(title, systems, list(PARTS.values()), "gain", reference=0.0))
    rows = [
        [line["logs"], heading(line["metric"]), line["task"]]
        + [estimate(_estimate(line[key]), sign=True) for key in PARTS]
        for line in lines
    ]
    return [
        paragraph(
            "Gains over the shared bottom without history, over all surfaces. “More than the sum” "
            "above 0 (below 0 for NE): mixture and history gain more together than apart. The last "
            "colour says whether they do so more on merged logs than surface by surface."
        ),
        keys(logs),
        grid(drawings),
        table(["logs", "metric", "task", *PARTS.values()], rows, names=3),
    ]


def _variants(document: dict[str, Any], metric: str) -> list[str]:
    """Differences from the first variant over all surfaces, drawn; and every cell as a table."""
    variants: Mapping[str, Any] = document["variants"]
    base, *others = variants
    cells = dict.fromkeys(
        (line["surface"], line["task"]) for each in variants.values() for line in each[metric]
    )
    if not cells:
        return []
    found = {
        name: {(line["surface"], line["task"]): line for line in each[metric]}
        for name, each in variants.items()
    }
    drawings = []
    for cell in cells:
        if cell[0] != "all" or not others:
            continue
        rows = {
            name: {metric: _estimate(found[name].get(cell, {}).get("difference"))}
            for name in others
        }
        title = f"{cell[1]}, less “{base}”"
        drawings.append(intervals(title, [("", rows)], others, metric, reference=0.0))
    rows_of = [[name, *(_value(found[name].get(cell)) for cell in cells)] for name in variants]
    headings = ["variant", *(" ".join(cell) for cell in cells)]
    return [grid(drawings), table(headings, rows_of)]


def _value(line: dict[str, Any] | None) -> Raw:
    """The mean, and under it the difference from the base."""
    if line is None or line["mean"] is None:
        return Raw(NO_VALUE)
    found = line["difference"]
    under = "" if found is None else interval(found).replace("-", "−")
    return Raw(f"{line['mean']:.4f}<small>{under}</small>")


def _estimate(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """An interval of `judge` as the drawings of the report take it."""
    if found is None:
        return {"value": None, "low": None, "high": None}
    return {"value": found["mean"], "low": found["low"], "high": found["high"]}

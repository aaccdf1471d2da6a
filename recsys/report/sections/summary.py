"""The top of the page and its end: what is judged, what to look at, how figures are made."""

from html import escape
from typing import Any

from recsys.report.html import paragraph, section, table
from recsys.report.sections.cells import ALL, Document, cells_of, runs_of

PCOC_BAND = 0.05
CONFLICT = -0.1
TRUSTED = 0.5  # least cosine of two halves for a conflict to be spoken of


def systems(document: Document) -> str:
    """What is judged, and what is left out."""
    rows = [
        [
            s["name"],
            s["kind"],
            f"{s['rows']:,}",
            f"{len(s['surfaces'])}",
            ", ".join(s["tasks"]),
            s["path"],
        ]
        for s in document["systems"]
    ]
    notes = [f"{s['name']}: {note}." for s in document["systems"] for note in s["notes"]]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    split = f"The {document['split']} split. " if document["split"] else ""
    boot = document["bootstrap"]
    return (
        paragraph(
            f"{split}Intervals are from {boot['resamples']:,} resamples of {boot['units']:,} "
            "groups of users."
        )
        + table(["system", "kind", "rows", "surfaces", "tasks", "path"], rows, names=1)
        + (f"<ul class='soft'>{listed}</ul>" if notes else "")
    )


def flags(document: Document) -> str:
    """What somebody who decides on a launch should look at first."""
    found = []
    for system in document["systems"]:
        name = f"{system['name']}: " if len(document["systems"]) > 1 else ""
        off, blind = [], []
        for (surface, task), cell in cells_of(system).items():
            if surface == ALL:
                continue
            pcoc = cell["pcoc"]
            if pcoc["low"] is not None and (
                pcoc["high"] < 1 - PCOC_BAND or pcoc["low"] > 1 + PCOC_BAND
            ):
                off.append(f"{surface} {task} ({pcoc['value']:.2f})")
            if cell["auc"]["value"] is None:
                blind.append(f"{surface} {task}")
        if off:
            found.append(
                f"{name}PCOC is more than {PCOC_BAND:.0%} off, interval and all: {', '.join(off)}."
            )
        if blind:
            found.append(f"{name}No AUC, as one class at most is known: {', '.join(blind)}.")
        ranks = [
            f"{surface} {task} (NE {cell['ne']['value']:.3f})"
            for (surface, task), cell in cells_of(system).items()
            if cell["ne"]["low"] is not None and cell["ne"]["low"] > 1
        ]
        if ranks:
            found.append(f"{name}Worse than a constant: {', '.join(ranks)}.")
    for name, run in runs_of(document):
        found += _inside(f"{name}: " if len(document["systems"]) > 1 else "", run)
    for each in document["differences"]:
        found += _changes(each)
    listed = "".join(f"<li>{escape(each)}</li>" for each in found)
    shown = f"<ul class='flags'>{listed}</ul>" if found else paragraph("Nothing stands out.")
    return section("What to look at", shown)


def _inside(name: str, run: dict[str, Any]) -> list[str]:
    found = []
    if run["experts"] and run["experts"]["dead"]:
        listed = ", ".join(str(i + 1) for i in run["experts"]["dead"])
        found.append(f"{name}Dead experts: {listed}.")
    for kind in ("surfaces", "tasks") if run["gradients"] else ():
        names, cosine = run["gradients"][kind]["names"], run["gradients"][kind]["cosine"]
        for i, a in enumerate(names):
            for j in range(i):
                value = cosine[i][j]
                sure = min(cosine[i][i] or 0, cosine[j][j] or 0) > TRUSTED
                if value is not None and value < CONFLICT and sure:
                    found.append(f"{name}{names[j]} and {a} pull against each other ({value:.2f}).")
    return found


def _changes(difference: dict[str, Any]) -> list[str]:
    """Where AUC or NE differ from the baseline for sure."""
    better: list[str] = []
    worse: list[str] = []
    cells = {
        (surface, task): each
        for surface, tasks in difference["surfaces"].items()
        for task, each in tasks["tasks"].items()
    } | {(ALL, task): each for task, each in difference["all"]["tasks"].items()}
    for (surface, task), each in cells.items():
        for metric, sign in (("auc", 1), ("ne", -1)):
            value = each[metric]
            if value["low"] is None or value["low"] <= 0 <= value["high"]:
                continue
            shown = f"{surface} {task} {metric.upper()} {value['value']:+.4f}".replace("-", "−")
            (better if value["value"] * sign > 0 else worse).append(shown)
    found = []
    for word, listed in (("Better", better), ("Worse", worse)):
        if listed:
            found.append(
                f"{difference['system']}: {word} than the baseline, intervals without 0: "
                f"{', '.join(listed)}."
            )
    if not found:
        found.append(f"{difference['system']}: no difference in AUC or NE whose interval is sure.")
    return found


def method(document: Document) -> str:
    """Definitions, and how exact everything is."""
    boot = document["bootstrap"]
    words = [
        "<b>AUC</b> counts ties half. <b>GAUC</b> is AUC within a user, weighted by impressions. "
        "<b>PR-AUC</b> is average precision. <b>NE</b> is the mean cross-entropy over the entropy "
        "of the base rate of the same rows: below 1 beats a constant. <b>PCOC</b> is Σ p / Σ y. "
        "<b>ECE</b> has 100 equal bins of p. <b>Field-ECE</b> has a bin for each value of a field. "
        "<b>HIT@k</b> is the share of positives that are in the top k of their request.",
        f"<b>Intervals</b> are 95 % intervals of a bootstrap over users. Users are dealt to "
        f"{boot['buckets']:,} buckets by a hash; {boot['units']:,} of them have rows here, and "
        "resamples draw these. With fewer users than buckets this is the bootstrap over users; "
        "with more, the width of an interval has a standard error of 2 %. Percentiles; for ECE and "
        "Field-ECE, which grow in a resample by about as much as on the rows, reflected at the "
        "value, so that an interval can lie below it. AUC and PR-AUC are exact; in resamples they "
        "come from up to 512 bins of the score, moved to the exact value.",
        "<b>Differences</b> use the same resamples for both systems.",
    ]
    return section("How figures are made", *map(paragraph, words))

"""A study's result as Markdown: on the screen, and in a file."""

from typing import Any


def markdown(document: dict[str, Any], *, every_surface: bool = True) -> str:
    """Tables of every metric: means and standard deviations over seeds, then differences.

    `every_surface`: each surface's tables too, after those of all surfaces together.
    """
    parts = []
    names = list(document["variants"])
    base = names[0]
    for metric in document["variants"][base]:
        lines = [line for variant in document["variants"].values() for line in variant[metric]]
        if not lines:
            continue
        title = f"{heading(metric)}, {document['split']} split, {seeds(document)}"
        surfaces = list(dict.fromkeys(line["surface"] for line in lines))
        for surface in surfaces if every_surface else surfaces[:1]:
            parts.append(f"## {title}: {surface}\n")
            parts.append(_table(document, metric, surface, _value))
            if len(names) > 1:
                parts.append(f"\nDifference from “{base}”, paired by seed, 95 %:\n")
                parts.append(_table(document, metric, surface, _difference, names[1:]))
            parts.append("")
    if document["composition"]:
        parts += ["## Do MMoE and history gain more together than apart?\n", _together(document)]
    return "\n".join(parts).rstrip() + "\n"


def heading(metric: str) -> str:
    """A metric as people write it."""
    return {"field_ece": "Field-ECE by surface"}.get(metric, metric.upper())


def seeds(document: dict[str, Any]) -> str:
    """Of how many seeds the figures are."""
    found = document["seeds"]
    return f"mean of {len(found)} seeds" if len(found) > 1 else f"seed {found[0]}"


def _table(
    document: dict[str, Any],
    metric: str,
    surface: str,
    show: Any,
    names: list[str] | None = None,
) -> str:
    variants = {
        name: {line["task"]: line for line in variant[metric] if line["surface"] == surface}
        for name, variant in document["variants"].items()
    }
    tasks = list(dict.fromkeys(task for variant in variants.values() for task in variant))
    lines = ["| variant | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name in names or variants:
        row = [show(variants[name].get(task)) for task in tasks]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _value(line: dict[str, Any] | None) -> str:
    if line is None or line["mean"] is None:
        return "–"
    spread = f" ± {line['sd']:.4f}" if line["sd"] is not None else ""
    return f"{line['mean']:.4f}{spread}"


def _difference(line: dict[str, Any] | None) -> str:
    if line is None or line["difference"] is None:
        return "–"
    return interval(line["difference"])


def interval(found: dict[str, float | None]) -> str:
    """A difference and its interval, if it has one."""
    if found["low"] is None:
        return f"{found['mean']:+.4f}"
    return f"{found['mean']:+.4f} ({found['low']:+.4f} … {found['high']:+.4f})"


def _together(document: dict[str, Any]) -> str:
    lines = [
        "| logs | metric | task | MMoE alone | history alone | both | both − the sum |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in document["composition"]:
        lines.append(
            f"| {line['logs']} | {heading(line['metric'])} | {line['task']} | "
            f"{interval(line['mixture'])} | {interval(line['history'])} | "
            f"{interval(line['together'])} | {interval(line['more_than_apart'])} |"
        )
    return "\n".join(lines)

"""A study's result as Markdown: on the screen, and in a file."""

from typing import Any


def markdown(document: dict[str, Any]) -> str:
    """Tables of every metric: means and standard deviations over seeds, then differences."""
    parts = []
    names = list(document["variants"])
    base = names[0]
    for metric in document["variants"][base]:
        parts.append(f"## {metric.upper()}, {document['split']} split, {_seeds(document)}\n")
        parts.append(_table(document, metric, _value))
        if len(names) > 1:
            parts.append(f"\nDifference from “{base}”, paired by seed, 95 %:\n")
            parts.append(_table(document, metric, _difference, names[1:]))
        parts.append("")
    if document["composition"]:
        parts += ["## Do MMoE and history gain more together than apart?\n", _together(document)]
    return "\n".join(parts).rstrip() + "\n"


def _seeds(document: dict[str, Any]) -> str:
    seeds = document["seeds"]
    return f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"


def _table(document: dict[str, Any], metric: str, show: Any, names: list[str] | None = None) -> str:
    variants = document["variants"]
    columns = list(
        dict.fromkeys(
            (line["surface"], line["task"])
            for variant in variants.values()
            for line in variant[metric]
        )
    )
    lines = [
        "| variant | " + " | ".join(f"{surface} {task}" for surface, task in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in names or variants:
        found = {(line["surface"], line["task"]): line for line in variants[name][metric]}
        row = [show(found.get(column)) for column in columns]
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
    return _interval(line["difference"])


def _interval(found: dict[str, float | None]) -> str:
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
            f"| {line['logs']} | {line['metric'].upper()} | {line['task']} | "
            f"{line['mixture']:+.4f} | {line['history']:+.4f} | {line['together']:+.4f} | "
            f"{_interval(line['more_than_apart'])} |"
        )
    return "\n".join(lines)

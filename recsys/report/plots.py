"""The drawings of a report, each from figures of the document."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from recsys.report.drawing import LINE, SERIES, SOFT, draw, no_numbers

Named = Sequence[tuple[str, Any]]  # (system, its figures)

RARE = 0.25  # a median prediction below this share of the largest


def reliability(title: str, systems: Named) -> str:
    """Observed against predicted, and under it where the scores of both classes are.

    `systems` have a cell of `document["systems"][i]["shapes"]`.
    """

    def fill(axes: list[Axes]) -> None:
        top, bottom = axes
        most = 0.0
        for number, (_, shape) in enumerate(systems):
            points, colour = shape["reliability"], SERIES[number % len(SERIES)]
            if not points:
                continue
            predicted = [p["predicted"] for p in points]
            observed = [p["observed"] for p in points]
            both = shape["calibrated"] and len(systems) == 1
            top.errorbar(
                predicted, observed, yerr=_errors(points, "observed"), color=colour, marker="o",
                markersize=3, linewidth=1.4, elinewidth=0.8,
                label="after calibration" if both else None,
            )  # fmt: skip
            if shape["calibrated"]:
                before = [p["before"] for p in points]
                top.plot(
                    before, observed, color=colour, linewidth=1, linestyle=(0, (2, 2)),
                    label="before" if both else None,
                )  # fmt: skip
                most = max([most, *before])
            most = max([most, *predicted, *observed])
            scores = shape["scores"]
            if number == 0 or len(systems) <= 2:
                x = scores["logit"]
                bottom.fill_between(
                    x, scores["positives"], color=colour, alpha=0.45, step="mid", linewidth=0
                )
                bottom.plot(
                    x, scores["negatives"], color=colour, linewidth=1, drawstyle="steps-mid"
                )
        most = most * 1.05 or 1
        top.plot([0, most], [0, most], color=LINE, linewidth=1, zorder=0)
        middle = [p["predicted"] for _, s in systems for p in s["reliability"]]
        if float(np.median(middle)) < RARE * most:
            # Most predictions of a rare event would lie on each other at the lower left.
            root: Any = (lambda x: np.sqrt(np.maximum(x, 0)), np.square)
            top.set_xscale("function", functions=root)
            top.set_yscale("function", functions=root)
        for axis in (top.xaxis, top.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        top.set(xlim=(0, most), ylim=(0, most), title=title, ylabel="observed rate")
        top.set_xlabel("predicted probability", labelpad=1)
        if top.get_legend_handles_labels()[0]:
            top.legend(loc="upper left")
        seen = [i for _, s in systems for i, y in enumerate(s["scores"]["negatives"]) if y > 1e-4]
        if seen:
            x = systems[0][1]["scores"]["logit"]
            bottom.set_xlim(x[max(min(seen) - 2, 0)], x[min(max(seen) + 2, len(x) - 1)])
        bottom.set_xlabel("logit: negatives (line), positives (filled)", labelpad=1)
        no_numbers(bottom)

    return draw(f"Reliability and scores: {title}", fill, size=(3.6, 3.6), rows=2, left=0.66)


def intervals(
    title: str,
    systems: Named,
    rows: Sequence[str],
    metric: str,
    *,
    reference: float | None = None,
    certain: bool = False,
) -> str:
    """A metric with its interval: a line for each of `rows`, a colour a system.

    With `certain`, what has no interval is left out.
    """

    def fill(axis: Axes) -> None:
        spread = 0.22 if len(systems) > 1 else 0
        for number, (_, cells) in enumerate(systems):
            shift = (number - (len(systems) - 1) / 2) * spread
            kept = [(i, cells[row][metric]) for i, row in enumerate(rows) if row in cells]
            kept = [(i, e) for i, e in kept if e["low" if certain else "value"] is not None]
            if not kept:
                continue
            axis.errorbar(
                [e["value"] for _, e in kept], [i + shift for i, _ in kept],
                xerr=_errors([e for _, e in kept], "value"), fmt="o", markersize=4,
                color=SERIES[number % len(SERIES)], elinewidth=1.4,
            )  # fmt: skip
        if reference is not None:
            axis.axvline(reference, color=SOFT, linewidth=0.8)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set(ylim=(len(rows) - 0.4, -0.6), title=title)
        # Long names leave room for few numbers.
        axis.xaxis.set_major_locator(MaxNLocator(5 if left < 1 else 3))

    height = 0.7 + 0.28 * len(rows)
    left = 0.25 + 0.065 * max((len(row) for row in rows), default=0)
    return draw(title, fill, size=(3.6, height), left=left, bottom=0.3)


def lines(
    title: str, series: Mapping[str, tuple[Sequence[Any], Sequence[dict[str, Any]]]], *,
    reference: float | None = None,
) -> str:  # fmt: skip
    """Estimates over days: name → (days, estimates)."""

    def fill(axis: Axes) -> None:
        every = sorted({day for days, _ in series.values() for day in days})
        place = {day: i for i, day in enumerate(every)}
        for number, (name, (days, found)) in enumerate(series.items()):
            kept = [(place[d], e) for d, e in zip(days, found, strict=True)]
            kept = [(x, e) for x, e in kept if e["value"] is not None]
            if kept:
                shift = (number - (len(series) - 1) / 2) * 0.06
                axis.errorbar(
                    [x + shift for x, _ in kept], [e["value"] for _, e in kept],
                    yerr=_errors([e for _, e in kept], "value"), marker="o", markersize=3,
                    elinewidth=0.8, color=SERIES[number % len(SERIES)], label=name,
                )  # fmt: skip
        if reference is not None:
            axis.axhline(reference, color=SOFT, linewidth=0.8, zorder=0)
        step = -(-len(every) // 5)
        axis.set_xticks(range(0, len(every), step), [day[5:] for day in every[::step]])
        axis.set_xlim(-0.5, len(every) - 0.5)
        axis.set_title(title)
        if len(series) > 1:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)

    legend = 0.17 * -(-len(series) // 3) if len(series) > 1 else 0
    return draw(title, fill, size=(3.6, 2.3 + legend), bottom=0.3 + legend)


def learning(title: str, systems: Named) -> str:
    """Loss of one (surface, task) while training (line), and on the valid split (dots)."""

    def fill(axis: Axes) -> None:
        losses: list[float] = []
        for number, (_, curve) in enumerate(systems):
            colour = SERIES[number % len(SERIES)]
            alone = len(systems) == 1
            train = [(s, y) for s, y in curve["train"] if y is not None]
            valid = [(s, y) for s, y in curve["valid"] if y is not None]
            if train:
                axis.plot(
                    *zip(*train, strict=True), color=colour, linewidth=0.9, alpha=0.6,
                    label="train" if alone else None,
                )  # fmt: skip
                losses += [y for _, y in train]
            if valid:
                axis.plot(
                    *zip(*valid, strict=True), color=colour, marker="o", markersize=3,
                    label="valid" if alone else None,
                )  # fmt: skip
                losses += [y for _, y in valid]
            if curve["best_step"] is not None:
                axis.axvline(curve["best_step"], color=LINE, linewidth=1, zorder=0)
        if losses:
            # The first steps would make everything after them a flat line.
            low, high = min(losses), float(np.quantile(losses, 0.97))
            axis.set_ylim(low - 0.06 * (high - low or 1), high + 0.1 * (high - low or 1))
            if len(systems) == 1:
                axis.legend(loc="upper right")
        axis.set(title=title, xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(5))

    return draw(f"Learning curve: {title}", fill)


def _errors(estimates: Sequence[Mapping[str, Any]], value: str) -> list[list[float]]:
    """Lengths of the error bars; 0 where there is no interval."""
    lower = [0.0 if e["low"] is None else max(e[value] - e["low"], 0.0) for e in estimates]
    upper = [0.0 if e["high"] is None else max(e["high"] - e[value], 0.0) for e in estimates]
    return [lower, upper]

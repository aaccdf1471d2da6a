"""Every metric of every slice with its interval, and paired differences of two systems."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.bootstrap import Estimate, Weights, estimate
from recsys.evaluation.measure import Measured
from recsys.evaluation.metrics import METRICS
from recsys.evaluation.rows import PredictionRows
from recsys.evaluation.statistic import Slice, field_gap

Replicates = dict[str, NDArray[np.float64]]
# Sums of absolute gaps: larger in a resample than on the rows (see `bootstrap.estimate`).
MIRRORED = ("ece", "ece_raw", "field_ece", "field_ece_raw")


class Judged:
    """One table's metrics: their values, and their values in every resample.

    Keys are (slicing, label, task), as in `Measured.slices`.
    """

    def __init__(self, measured: Measured, weights: Weights) -> None:
        self.values: dict[tuple[str, str, str], dict[str, float | None]] = {}
        self.replicates: dict[tuple[str, str, str], Replicates] = {}
        self.slices: Mapping[tuple[str, str, str], Slice] = measured.slices
        for key, each in measured.slices.items():
            self.values[key] = each.exact()
            self.replicates[key] = each.replicates(weights)
        one = np.ones((1, weights.shape[1]))
        for task, moments in measured.surfaces.items():
            for name, column in (("field_ece", "p"), ("field_ece_raw", "raw")):
                key = ("all", "all", task)
                if column == "raw" and measured.slices[key].ece_raw is None:
                    continue
                [value] = field_gap(moments, one, column)
                self.values[key][name] = None if np.isnan(value) else float(value)
                self.replicates[key][name] = field_gap(moments, weights, column)

    def names(self, key: tuple[str, str, str]) -> list[str]:
        """Metrics of a slice, those that people know first."""
        known = [name for name in METRICS if name in self.values[key]]
        return known + [name for name in self.values[key] if name not in known]

    def metrics(self, key: tuple[str, str, str]) -> dict[str, Any]:
        """`{"rows", "positives", metric: {"value", "low", "high", "se"}}` of a slice."""
        own = self.slices[key]
        found: dict[str, Any] = {n: round(own.moment(n)) for n in ("rows", "positives")}
        for name in self.names(key):
            found[name] = _estimate(
                name, self.values[key][name], self.replicates[key][name], own.units
            ).document()
        return found

    def difference(self, baseline: "Judged", key: tuple[str, str, str]) -> dict[str, Any]:
        """`{metric: {"value", "low", "high", "se"}}`: this less the baseline, resample by resample.

        A resample is the same users for both, so that what they share cancels.
        """
        found = {}
        units = min(self.slices[key].units, baseline.slices[key].units)
        for name in self.names(key):
            one, other = baseline.values[key].get(name), self.values[key][name]
            if name == "base_rate" or name not in baseline.replicates[key]:
                continue
            value = None if one is None or other is None else other - one
            replicates = self.replicates[key][name] - baseline.replicates[key][name]
            found[name] = _estimate(name, value, replicates, units, difference=True).document()
        return found


def _estimate(
    name: str,
    value: float | None,
    replicates: NDArray[np.float64],
    units: int,
    difference: bool = False,
) -> Estimate:
    mirrored = name in MIRRORED
    return estimate(value, replicates, units, mirrored=mirrored, least=None if difference else 0.0)


def table_of(
    judged: Judged, rows: PredictionRows, segments: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The metrics of one system, shaped as `recsys evaluate --json` shapes them."""

    def tasks(slicing: str, label: str) -> dict[str, Any]:
        keys = ((slicing, label, task) for task in rows.tasks)
        return {key[2]: judged.metrics(key) for key in keys if key in judged.values}

    return {
        "surfaces": {
            surface: {
                "requests": found.get("requests", 0),
                "candidates": found.get("candidates", 0),
                "tasks": tasks("surface", surface),
            }
            for surface, found in rows.counts.items()
        },
        "all": {"tasks": tasks("all", "all")},
        "segments": {
            name: {label: {"tasks": tasks(name, label)} for label in labels}
            for name, labels in segments.items()
        },
    }

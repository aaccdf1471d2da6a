"""Counts of a split: requests, candidates, labels, nulls and ranges."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from recsys.data.columns import Columns
from recsys.data.layout import Layout
from recsys.data.schema import Column, column_name, features_of


class SplitCounts:
    """Counts row groups as they are added. Rows of an unknown surface are left out."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        shape = (len(layout.surfaces), len(layout.tasks))
        self.requests = np.zeros(shape[0], dtype=np.int64)
        self.candidates = np.zeros(shape[0], dtype=np.int64)
        self.events = 0
        self.known = np.zeros(shape, dtype=np.int64)
        self.positives = np.zeros(shape, dtype=np.float64)
        self.features: dict[str, dict[str, Any]] = {
            column_name(each): {"values": 0, "nulls": 0, "min": None, "max": None}
            for each in features_of(layout)
        }

    def add(self, columns: Columns, labels: np.ndarray) -> None:
        """Counts a row group; `labels` are `[C, T]`, NaN where unknown."""
        surface = columns.surface
        index = np.repeat(surface, columns.candidate_lengths)
        for number in range(len(self.layout.surfaces)):
            here = surface == number
            self.requests[number] += np.count_nonzero(here)
            self.candidates[number] += columns.candidate_lengths[here].sum()
            of_surface = labels[index == number].astype(np.float64)
            self.known[number] += np.count_nonzero(~np.isnan(of_surface), axis=0)
            self.positives[number] += np.nansum(of_surface, axis=0)
        self.events += int(columns.history_lengths.sum())
        for each in features_of(self.layout):
            self._add_feature(each, columns)

    def _add_feature(self, each: Column, columns: Columns) -> None:
        key, only = each.key, each.feature.surfaces
        values, found = columns.values[key], self.features[column_name(each)]
        if only and key not in columns.inner:
            # Where a surface lacks the feature, it is not missing.
            values = values.filter(pa.array(columns.on_surfaces(self.layout, only, each.level)))
        found["values"] += len(values)
        found["nulls"] += values.null_count
        if types.is_integer(values.type) or types.is_floating(values.type):
            low, high = (x.as_py() for x in pc.min_max(values).values())
            if low is not None:
                found["min"] = low if found["min"] is None else min(found["min"], low)
                found["max"] = high if found["max"] is None else max(found["max"], high)

    def result(self) -> dict[str, Any]:
        """The counts as plain values, ready for JSON."""
        surfaces = {}
        for number, name in enumerate(self.layout.surfaces):
            tasks = {
                self.layout.tasks[task]: {
                    "known": int(self.known[number, task]),
                    "positives": float(self.positives[number, task]),
                }
                for task in self.layout.task_indices(name)
            }
            surfaces[name] = {
                "requests": int(self.requests[number]),
                "candidates": int(self.candidates[number]),
                "tasks": tasks,
            }
        return {
            "requests": int(self.requests.sum()),
            "candidates": int(self.candidates.sum()),
            "events": self.events,
            "surfaces": surfaces,
            "features": self.features,
        }

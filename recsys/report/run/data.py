"""What is in the splits of a run: rows, users, labels and base rates of each (surface, task)."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.config import Config
from recsys.data.layout import Layout
from recsys.data.rowgroups import RowGroups
from recsys.data.schema import Projection
from recsys.data.splits import open_split
from recsys.errors import UserError
from recsys.evaluation.known import hashes

SPLITS = ("train", "valid", "test")


def summarise(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Split → counts, and a word for each split that is not there (any more).

    `{"requests", "candidates", "users", "surfaces": {S: {"requests", "candidates", "tasks": {T:
    {"known", "positives", "rate"}}}}}`. Reads the columns of surfaces, labels and users, a row
    group at a time. `users` is null if the group is not a column of the request.
    """
    found, notes = {}, []
    for split in SPLITS:
        try:
            found[split] = _split(config, split)
        except UserError as error:
            notes.append(f"data summary without {split}: {error}")
    return found, notes


def _split(config: Config, name: str) -> dict[str, Any]:
    split = open_split(config, name)
    surfaces, tasks = list(config.active_surfaces), list(config.tasks)
    requests, candidates = np.zeros(len(surfaces), np.int64), np.zeros(len(surfaces), np.int64)
    known = np.zeros((len(surfaces), len(tasks)), np.int64)
    positives = np.zeros((len(surfaces), len(tasks)))
    group, layout = config.evaluation.group, Layout(config)
    users: NDArray[np.uint64] | None = np.zeros(0, np.uint64)
    has_group = group is not None and all(group in schema.names for schema in split.schemas)
    chosen = Projection(layout, (), request_extras=(group,) if group and has_group else ())
    with RowGroups(split, chosen) as source:
        for number in range(len(split.row_groups)):
            table = source.table(number)
            surface = _codes(table[config.data.axis], surfaces, config.data.fallback)
            table, surface = table.filter(pa.array(surface >= 0)), surface[surface >= 0]
            lists = table["candidates"].combine_chunks()
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(False)
            of_row = np.repeat(surface, lengths)
            requests += np.bincount(surface, minlength=len(surfaces))
            candidates += np.bincount(of_row, minlength=len(surfaces))
            struct = lists.flatten()
            for t, task in enumerate(tasks):
                label = pc.struct_field(struct, task).cast(pa.float64()).to_numpy(False)
                is_known = ~np.isnan(label)
                rows = of_row[is_known]
                known[:, t] += np.bincount(rows, minlength=len(surfaces))
                positives[:, t] += np.bincount(rows, label[is_known], len(surfaces))
            if not has_group:
                users = None
            elif users is not None:
                users = np.union1d(users, hashes(pc.unique(table[group]).drop_null()))
    return {
        "requests": int(requests.sum()),
        "candidates": int(candidates.sum()),
        "users": None if users is None else len(users),
        "surfaces": {
            surface: {
                "requests": int(requests[s]),
                "candidates": int(candidates[s]),
                "tasks": {
                    task: {
                        "known": int(known[s, t]),
                        "positives": float(positives[s, t]),
                        "rate": float(positives[s, t] / known[s, t]) if known[s, t] else None,
                    }
                    for t, task in enumerate(tasks)
                    if task in config.surfaces[surface].tasks
                },
            }
            for s, surface in enumerate(surfaces)
        },
    }


def _codes(
    surface: pa.ChunkedArray, surfaces: list[str], fallback: str | None
) -> NDArray[np.int64]:
    """The number of each row's surface; that of the fallback, or -1, where it is unknown."""
    text = surface.cast(pa.string()).combine_chunks()
    unknown = surfaces.index(fallback) if fallback in surfaces else -1
    found = pc.fill_null(pc.index_in(text, pa.array(surfaces)), unknown)
    return found.to_numpy(zero_copy_only=False).astype(np.int64)

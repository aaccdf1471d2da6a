"""Random request tables to train on, and the experiments that read them.

Values are noise: only their shapes, types and numbers of distinct ids matter for speed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import Config, parse_config

REQUEST_IDS = {"user": 100_000, "city": 5_000, "country": 200, "device": 50, "age_group": 16}
CANDIDATE_IDS = {"item": 50_000, "author": 20_000, "brand": 5_000, "category": 500, "slot": 32}
NUMBERS = 5  # of each of the two levels
TASKS = ("click", "like")
ID_DIM = 16


@dataclass(frozen=True)
class Shape:
    """How large a table is.

    Attributes:
        requests: rows of the table.
        candidates: of each request.
        history: events of each request.
        surfaces: request i is on surface i mod surfaces.
        users: distinct users; the rows of their table.
        row_group: requests in a row group.
    """

    requests: int
    candidates: int = 1
    history: int = 0
    surfaces: int = 3
    users: int = REQUEST_IDS["user"]
    row_group: int = 8_192


def write_table(folder: Path, shape: Shape, *, flat: bool = False, seed: int = 0) -> None:
    """Writes one Parquet file. With `flat`, each candidate becomes a request of its own."""
    folder.mkdir(parents=True)
    table = make_table(shape, seed)
    if flat:
        table = flatten(table)
    pq.write_table(table, folder / "part-0.parquet", row_group_size=shape.row_group)


def make_table(shape: Shape, seed: int) -> pa.Table:
    """The table of `shape`, the same for the same seed but for the surfaces and the users."""
    draw = np.random.default_rng(seed)
    requests, candidates = shape.requests, shape.requests * shape.candidates
    user = (draw.random(requests) * shape.users).astype(np.int64)
    columns: dict[str, Any] = {
        "request_id": np.arange(requests),
        "surface": pa.DictionaryArray.from_arrays(
            np.arange(requests, dtype=np.int32) % shape.surfaces,
            [surface_name(s) for s in range(shape.surfaces)],
        ).cast(pa.string()),
        "time": np.arange(requests),
        "user": user,
        **{name: draw.integers(n, size=requests) for name, n in REQUEST_IDS.items() if n < 10_000},
        **{f"r{i}": _numbers(draw, requests) for i in range(NUMBERS)},
    }
    shown = {name: draw.integers(n, size=candidates) for name, n in CANDIDATE_IDS.items()}
    shown |= {f"c{i}": _numbers(draw, candidates) for i in range(NUMBERS)}
    shown |= {task: (draw.random(candidates) < 0.3).astype(np.int8) for task in TASKS}
    columns["candidates"] = _lists(shown, requests, shape.candidates)
    events = requests * shape.history
    past = {name: draw.integers(CANDIDATE_IDS[name], size=events) for name in ("item", "category")}
    columns["history"] = _lists({**past, "age": _numbers(draw, events)}, requests, shape.history)
    return pa.table(columns)


def flatten(table: pa.Table) -> pa.Table:
    """The same rows with one candidate a request, in the same order."""
    lists = table.column("candidates").combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    flat = table.take(pa.array(np.repeat(np.arange(len(table)), lengths)))
    one_each = np.arange(len(lists.values) + 1, dtype=np.int32)
    position = table.column_names.index("candidates")
    return flat.set_column(position, "candidates", pa.ListArray.from_arrays(one_each, lists.values))


def _numbers(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.exponential(3.0, size=count).astype(np.float32)


def _lists(fields: dict[str, np.ndarray], rows: int, length: int) -> pa.ListArray:
    structs = pa.StructArray.from_arrays([pa.array(x) for x in fields.values()], list(fields))
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, structs)


def surface_name(number: int) -> str:
    """Name of surface `number`."""
    return f"surface_{number}"


def experiment(
    root: Path,
    shape: Shape,
    *,
    model: dict[str, Any],
    tower: dict[str, Any],
    batch_candidates: int,
    train: str = "train",
) -> Config:
    """The experiment that reads a table of `shape`, every feature required."""
    number = {"number": "log1p", "required": True}
    features: dict[str, Any] = {
        "request": {name: {"id": name, "required": True} for name in REQUEST_IDS}
        | {f"r{i}": number for i in range(NUMBERS)},
        "candidate": {name: {"id": name, "required": True} for name in CANDIDATE_IDS}
        | {f"c{i}": number for i in range(NUMBERS)},
    }
    if shape.history:
        features["history"] = {
            "length": shape.history,
            "fields": {"item": {"id": "item"}, "category": {"id": "category"}, "age": number},
        }
    rows = {**REQUEST_IDS, **CANDIDATE_IDS, "user": shape.users}
    document = {
        "name": "bench",
        "data": {"root": str(root), "train": train},
        "tables": {name: {"rows": n, "dim": ID_DIM} for name, n in rows.items()},
        "features": features,
        "surfaces": {
            surface_name(s): {"tasks": list(TASKS), "tower": tower} for s in range(shape.surfaces)
        },
        "model": model,
        "training": {"batch_candidates": batch_candidates, "threads": 1},
    }
    return parse_config(document, "bench")

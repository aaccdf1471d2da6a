"""Columns to Parquet, one row a request."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.recipes.kuairand import read
from recsys.data.recipes.kuairand.features import Features
from recsys.data.recipes.kuairand.options import TASKS, KuaiRandOptions, surface_of
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests
from recsys.data.recipes.kuairand.static import Videos

# Ids that were read as floats because a value may be absent.
ID_COLUMNS = {*read.VIDEO_IDS, "music_type", *read.USER_INTEGERS}


def _column(name: str, values: np.ndarray) -> pa.Array:
    """Strings stay strings, ids become int64, every other number float32; NaN becomes null."""
    if values.dtype == object:
        return pa.array(values.tolist(), type=pa.string())
    if values.dtype == np.int64:
        return pa.array(values)
    absent = np.isnan(values)
    kind = np.int64 if name in ID_COLUMNS else np.float32
    return pa.array(np.where(absent, 0, values).astype(kind), mask=absent)


def _tags(videos: Videos, video: np.ndarray) -> pa.ListArray:
    """`[N]` all tags of each video; null where it has none."""
    rows = videos.row(video)
    known = pa.array([tags or None for tags in videos.tags], type=pa.list_(pa.int64()))
    return known.take(pa.array(rows, mask=rows < 0))


def make_table(
    log: Columns,
    requests: Requests,
    features: Features,
    history: pa.ListArray,
    videos: Videos,
) -> pa.Table:
    """The request table, `[R]` rows sorted by user and time."""
    first, rows = requests.first, requests.rows
    user, tab, date = (log[name][first] for name in ("user_id", "tab", "date"))
    # Natural keys: a request keeps its id whatever happens to other rows.
    ids = [
        f"{u}-{t}-{d}-{ms}"
        for u, t, d, ms in zip(
            user.tolist(), tab.tolist(), date.tolist(), requests.time.tolist(), strict=True
        )
    ]
    names = {t: surface_of(t) for t in np.unique(tab).tolist()}
    candidates = {
        "video_id": pa.array(log["video_id"][rows]),
        "time_ms": pa.array(log["time_ms"][rows]),
        "tag": _tags(videos, log["video_id"][rows]),
    }
    candidates |= {name: _column(name, values) for name, values in features.candidate.items()}
    candidates |= {task: pa.array(log[task][rows].astype(np.int8)) for task in TASKS}
    struct = pa.StructArray.from_arrays(list(candidates.values()), names=list(candidates))
    columns = {
        "request_id": pa.array(ids),
        "surface": pa.array([names[t] for t in tab.tolist()], type=pa.string()),
        "time": pa.array(requests.time),
        "date": pa.array(date),
        "user_id": pa.array(user),
        "tab": pa.array(tab),
    }
    columns |= {name: _column(name, values) for name, values in features.request.items()}
    columns["history"] = history
    columns["candidates"] = pa.ListArray.from_arrays(
        pa.array(requests.offsets.astype(np.int32)), struct
    )
    return pa.table(columns)


def write_split(table: pa.Table, folder: Path, options: KuaiRandOptions) -> None:
    """Writes part-00000.parquet … into `folder`."""
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, max(len(table), 1), options.requests_per_file)):
        pq.write_table(
            table.slice(start, options.requests_per_file),
            folder / f"part-{part:05d}.parquet",
            row_group_size=options.requests_per_row_group,
            compression="zstd",
        )

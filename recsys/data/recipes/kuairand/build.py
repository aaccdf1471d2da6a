"""KuaiRand-Pure → request table: the order of the steps, and the summary of what was done."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from recsys.data.recipes.kuairand import read
from recsys.data.recipes.kuairand.features import make_features
from recsys.data.recipes.kuairand.history import make_history
from recsys.data.recipes.kuairand.options import TASKS, KuaiRandOptions
from recsys.data.recipes.kuairand.prior import prior_of_log, read_prior
from recsys.data.recipes.kuairand.prior_features import PriorFeatures
from recsys.data.recipes.kuairand.read import Columns, RawFiles
from recsys.data.recipes.kuairand.requests import group, merge_logs
from recsys.data.recipes.kuairand.static import Videos
from recsys.data.recipes.kuairand.write import make_table, write_split
from recsys.errors import UserError
from recsys.files import whole_folder, write_json

# The prior sequences cover 9-24 April; a log that reaches back this far says more than they do.
PRIOR_FIRST, PRIOR_LAST = 20220409, 20220424


def split_rows(date: NDArray[np.int64], options: KuaiRandOptions) -> dict[str, NDArray[np.bool_]]:
    """Which rows `[N]` of these dates each split has."""
    return {name: (first <= date) & (date < end) for name, (first, end) in options.splits.items()}


def _counts(table: pa.Table) -> dict[str, Any]:
    """Requests, candidates and positives of each surface."""
    counts: dict[str, Any] = {}
    for surface in sorted(pc.unique(table["surface"]).to_pylist()):
        candidates = table.filter(pc.equal(table["surface"], surface))["candidates"]
        flat = pc.list_flatten(candidates)
        counts[surface] = {
            "requests": len(candidates),
            "candidates": len(flat),
            "positives": {task: pc.sum(pc.struct_field(flat, task)).as_py() for task in TASKS},
        }
    return counts


def _choose_prior(log: Columns, files: RawFiles, options: KuaiRandOptions) -> tuple[Any, ...]:
    """The prior sequences, where they come from, and the log without the days they cover."""
    if log["date"].min() <= PRIOR_FIRST:
        return prior_of_log(log, options), "log", log
    if files.prior is None:
        if log["date"].min() < options.train_first:
            return prior_of_log(log, options), "log", log
        return None, None, log
    # The official main log begins on 22 April: these days would be counted twice.
    keep = log["date"] > PRIOR_LAST
    return read_prior(files.prior), read.PRIOR, {name: c[keep] for name, c in log.items()}


def make_request_table(
    raw: Path, options: KuaiRandOptions, step: Callable[[str], None] = lambda text: None
) -> tuple[pa.Table, dict[str, Any]]:
    """The whole request table in memory, and a summary of what it was made from.

    `step` is called with a few words before each part of the work.
    """
    files = read.find_files(raw)
    step("reading the logs")
    logs = [read.read_log(path) for path in files.logs]
    rows = {path.name: len(log["time_ms"]) for path, log in zip(files.logs, logs, strict=True)}
    log, dropped = merge_logs(logs)
    log_rows = len(log["time_ms"])
    step("reading users, videos and prior sequences")
    users = read.read_users(files.users) if files.users else None
    videos = Videos(read.read_videos(files.videos) if files.videos else None)
    prior, source, log = _choose_prior(log, files, options)
    step("grouping impressions into requests")
    requests = group(log, options)
    for name, keep in split_rows(log["date"][requests.rows], options).items():
        if not keep.any():
            first, end = options.splits[name]
            raise UserError(
                f"{files.logs[-1]}: column date has no row of the surfaces with {first} <= date < "
                f"{end}, the {name} split; give another --{name}-first"
            )
    step("computing causal rates")
    aggregates = PriorFeatures(prior, videos) if prior is not None and len(prior.user) else None
    features = make_features(log, requests, users, videos, aggregates)
    step("collecting histories")
    # Where the prior sequences come from the log, its own rows are already in the history.
    history = make_history(log, requests, prior if source == read.PRIOR else None, videos, options)
    table = make_table(log, requests, features, history, videos)
    summary = {
        "found": files.found,
        "not_found": files.not_found,
        "not_used": files.not_used,
        "prior_sequences_from": source,
        "rows_read": rows,
        "repeated_rows_dropped": dropped,
        "rows": log_rows,
        "rows_covered_by_prior_sequences": log_rows - len(log["time_ms"]),
        "rows_without_request": len(log["time_ms"]) - len(requests.rows),
    }
    return table, summary


def build(raw: Path, out: Path, options: KuaiRandOptions | None = None) -> dict[str, Any]:
    """Writes OUT/{train,valid,test}/part-*.parquet and OUT/recipe.json; returns that summary.

    Args:
        raw: the unpacked KuaiRand-Pure folder, or its `data` folder.
        out: a folder that does not exist yet; it appears when everything is written.

    Raises:
        UserError: a file or a column is missing, a value is malformed, a log is empty, or `out`
            exists.
    """
    options = options or KuaiRandOptions()
    if out.exists():
        raise UserError(f"{out}: exists already; remove it or give another folder")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("KuaiRand-Pure", total=7)

        def step(text: str) -> None:
            progress.update(task, advance=1, description=text)

        table, summary = make_request_table(raw, options, step)
        step("writing Parquet")
        summary["options"] = asdict(options)
        with whole_folder(out) as folder:
            summary["splits"] = {}
            for name, keep in split_rows(table["date"].to_numpy(), options).items():
                split = table.filter(pa.array(keep))
                write_split(split, folder / name, options)
                summary["splits"][name] = _counts(split)
            write_json(folder / "recipe.json", summary)
        step("done")
    return summary

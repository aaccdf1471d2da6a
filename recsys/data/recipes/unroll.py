"""Histories → requests to pretrain on: each event is a candidate of the events before it.

A model that is asked "what did the user do with the next item, given what they did before" learns
embeddings and a history encoder from every event that the log's histories hold, also from those
older than the log. Taken are the histories as they stood at each user's first request of the train
split: no label of that split is among their events, so that what was learned from them tells as
little about rows of train as about rows of later days.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from recsys.config import Config, IdFeature, dump_config, parse_config
from recsys.config.experiment import nearest
from recsys.data.splits import Split, is_local, open_split
from recsys.errors import UserError
from recsys.files import whole_folder, write_text
from recsys.sql import WRONG_STATEMENT, first_line, opened, quoted, text

SURFACE = "history"
TASK = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
REQUESTS_A_ROW_GROUP = 4_096


def unroll(
    config: Config,
    out: Path,
    labels: Mapping[str, str],
    *,
    together: int = 10,
    held_out: float = 0.05,
    memory_limit: str | None = None,
) -> dict[str, Any]:
    """Writes OUT/train, OUT/valid – request tables – and OUT/config.yaml, which trains on them.

    The events of a user come in blocks: one request has a block as its candidates, and as its
    history all events before the block. The configuration has the model of `config`, the tables and
    features that history and candidates share, and one surface, `history`.

    Args:
        config: what will be trained afterwards; `evaluation.group` names its users.
        out: a new folder.
        labels: task → SQL over the fields of an event, such as `(action & 2) > 0`; null = unknown.
        together: events of a block.
        held_out: share of the users whose requests are the valid split.
        memory_limit: DuckDB's; beyond it, it spills to a folder beside `out`.

    Returns `{"out", "splits": {split: {"requests", "candidates", "positives": {task: n}}}}`.

    Raises:
        UserError: `out` exists; a split that is not on this machine; no history, users or shared
            features; a wrong label; no event before the split.
    """
    if out.exists():
        raise UserError(f"{out}: exists; remove it or choose another folder")
    if not 0 < held_out < 1:
        raise UserError(f"--held-out {held_out}: is a share between 0 and 1")
    if not labels:
        raise UserError("--label: missing; write TASK=SQL over an event's fields")
    shared = shared_features(config)
    user = config.evaluation.group
    if user is None:
        raise UserError("evaluation.group: missing; name the column of the users")
    split = open_split(config, "train")
    known = _fields_of_events(split, user, shared)
    with whole_folder(out) as beside, opened(split.url, memory_limit) as database:
        spill = beside / ".spill"
        database.execute(f"set temp_directory = {text(spill)}")
        files = ", ".join(text(file) for file in split.files)
        _read(database, f"read_parquet([{files}])", user)
        if database.execute("select count(*) from first").fetchone() == (0,):
            raise UserError(
                f"{split.url}: column history: empty at every user's first request, and later "
                "histories hold this split's own labels; write a log whose histories reach back "
                "before it"
            )
        summary: dict[str, Any] = {"out": str(out), "splits": {}}
        for name, condition in (
            ("train", f"place_of_user >= {held_out}"),
            ("valid", f"place_of_user < {held_out}"),
        ):
            (beside / name).mkdir()
            file = beside / name / "part-00000.parquet"
            statement = _requests(config, shared, labels, user, together, condition)
            try:
                database.execute(
                    f"copy ({statement}) to {text(file)} (format parquet, compression zstd, "
                    f"row_group_size {REQUESTS_A_ROW_GROUP})"
                )
            except (*WRONG_STATEMENT, duckdb.ConversionException) as error:
                raise UserError(
                    f"--label {', '.join(labels)}: {first_line(error)}; an event has the fields "
                    f"{', '.join(known)}"
                ) from None
            summary["splits"][name] = counts = _counts(database, file, list(labels))
            if not counts["candidates"]:
                raise UserError(
                    f"{split.url}: column history: no events for {name}; give another --held-out"
                )
        write_text(beside / "config.yaml", dump_config(configuration(config, out, shared, labels)))
        shutil.rmtree(spill, ignore_errors=True)
    return summary


def labels_of(options: Iterable[str]) -> dict[str, str]:
    """`TASK=SQL` strings as task → SQL. Raises `UserError` for one that is written otherwise."""
    found: dict[str, str] = {}
    for option in options:
        task, equals, sql = option.partition("=")
        if not equals or not TASK.fullmatch(task) or not sql.strip() or task in found:
            raise UserError(f"--label {option}: write it as TASK=SQL, each task once")
        found[task] = sql
    return found


def shared_features(config: Config) -> dict[str, IdFeature]:
    """The candidate's id features that events have too, read from the same table."""
    history = config.features.history
    if history is None or config.model.sequence is None:
        raise UserError("features.history: missing, or model.sequence is null; nothing to pretrain")
    found = {
        name: feature
        for name, feature in config.features.candidate.items()
        if isinstance(feature, IdFeature)
        and feature.surfaces is None
        and isinstance(other := history.fields.get(name), IdFeature)
        and other.id == feature.id
    }
    if not found:
        raise UserError(
            "features.history.fields: shares no id feature with features.candidate; give an event "
            "the id of its item, under the candidate's name and table"
        )
    return found


def configuration(
    config: Config, out: Path, shared: Mapping[str, IdFeature], labels: Mapping[str, str]
) -> Config:
    """The configuration of the pretraining: that of `config`, on the unrolled histories."""
    document = config.model_dump(mode="json", by_alias=True)
    features = document["features"]
    features["request"] = {}
    features["candidate"] = {name: features["candidate"][name] for name in shared}
    used = [each["id"] for each in features["candidate"].values()]
    used += [each["id"] for each in features["history"]["fields"].values() if "id" in each]
    tower = next(iter(config.active_surfaces.values())).tower
    document |= {
        "name": f"{config.name}-pretraining",
        "tables": {name: each for name, each in document["tables"].items() if name in used},
        "surfaces": {
            SURFACE: {
                "tasks": list(labels),
                "tower": {"stem": list(tower.stem), "dropout": tower.dropout},
            }
        },
        "sharding": {},
        "export": {},
    }
    document["data"] = {
        "root": str(out),
        "axis": config.data.axis,
        "train": "train",
        "valid": "valid",
        "test": "valid",
        "shuffle_row_groups": config.data.shuffle_row_groups,
    }
    document["model"] |= {"towers": "surface", "surfaces": None, "gates": {}, "calibration": {}}
    document["training"]["warm_start"] = None
    document["evaluation"] = {"group": config.evaluation.group}
    return parse_config(document, str(out))


def _fields_of_events(split: Split, user: str, shared: Iterable[str]) -> list[str]:
    """Raises `UserError` if a split cannot be read here, or lacks a column."""
    if not is_local(split.filesystem):
        raise UserError(f"{split.url}: is not on this machine; copy the split and set data.root")
    for name in (user, "history"):
        if name not in split.schemas[0].names:
            raise UserError(f"{split.show(0)}: no column {name}; write it with each request")
    fields = split.schemas[0].field("history").type.value_type
    known = [fields.field(i).name for i in range(fields.num_fields)]
    for name in shared:
        if name not in known:
            raise UserError(f"{split.show(0)}: no column history.{name}; {nearest(name, known)}")
    return known


def _read(database: duckdb.DuckDBPyConnection, source: str, user: str) -> None:
    """`first`: each user's first request, if it has a history.

    A later request of a user without one does not stand in for the first: its events are
    impressions of this very split.
    """
    database.execute(
        f"""
        create temp table first as
        select * from (
            select {quoted(user)} as unrolled_user, time as unrolled_time, history,
                   hash({quoted(user)}) / 18446744073709551616.0 as place_of_user
            from {source} where {quoted(user)} is not null
            qualify row_number() over (partition by {quoted(user)} order by time, request_id) = 1
        ) where len(history) > 0
        """
    )


def _requests(
    config: Config,
    shared: Mapping[str, IdFeature],
    labels: Mapping[str, str],
    user: str,
    together: int,
    condition: str,
) -> str:
    """The statement of the request table of the users that meet a condition."""
    fields = [
        f"{quoted(name)} := {f'[{quoted(name)}]' if feature.pooling else quoted(name)}"
        for name, feature in shared.items()
    ]
    fields += [f"{quoted(task)} := cast(({sql}) as tinyint)" for task, sql in labels.items()]
    return f"""
        with events as (
            select unrolled_user, unnest(history, max_depth := 2),
                   generate_subscripts(history, 1) - 1 as unrolled_place
            from first where {condition}
        ), blocks as (
            select unrolled_user, unrolled_place // {together} as block,
                   list(struct_pack({", ".join(fields)}) order by unrolled_place) as candidates
            from events group by all
        )
        select unrolled_user::varchar || '-' || block as request_id,
               {text(SURFACE)} as {quoted(config.data.axis)},
               unrolled_time as time,
               unrolled_user as {quoted(user)},
               history[1:block * {together}] as history,
               candidates
        from blocks join first using (unrolled_user) order by unrolled_user, block
        """


def _counts(database: duckdb.DuckDBPyConnection, file: Path, tasks: list[str]) -> dict[str, Any]:
    sums = "".join(
        f", sum(list_sum(list_transform(candidates, lambda c: c.{quoted(task)})))" for task in tasks
    )
    found = database.execute(
        f"select count(*), sum(len(candidates)){sums} from read_parquet({text(file)})"
    ).fetchone()
    assert found is not None
    requests, candidates, *positives = (int(each or 0) for each in found)
    return {
        "requests": requests,
        "candidates": candidates,
        "positives": dict(zip(tasks, positives, strict=True)),
    }

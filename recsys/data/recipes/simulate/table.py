"""A chunk's log as rows of the request table."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.data.recipes.simulate.recent import HISTORY_LENGTH
from recsys.data.recipes.simulate.sessions import Log, actions
from recsys.data.recipes.simulate.users import HOUR_MS, Users
from recsys.data.recipes.simulate.world import COUNTRIES, SECOND_TASKS, TASKS, Floats, Ints, World

_EVENT = pa.struct(
    [
        ("item_id", pa.int64()),
        ("category", pa.int64()),
        ("action", pa.int64()),
        ("age_hours", pa.float32()),
    ]
)
_CANDIDATE = pa.struct(
    [
        ("item_id", pa.int64()),
        ("category", pa.int64()),
        ("tags", pa.list_(pa.int64())),
        ("price", pa.float32()),
        ("quality", pa.float32()),
        ("query_match", pa.float32()),
        *((task, pa.int8()) for task in TASKS),
        *((f"truth.{task}", pa.float32()) for task in TASKS),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.int64(), nullable=False),
        pa.field("surface", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),
        ("user_id", pa.int64()),
        ("country", pa.string()),
        ("age_group", pa.int64()),
        ("hour", pa.float32()),
        ("interests", pa.list_(pa.int64())),
        ("query", pa.int64()),
        ("seed_item", pa.int64()),
        ("seed_category", pa.int64()),
        ("history", pa.list_(_EVENT)),
        ("candidates", pa.list_(_CANDIDATE)),
    ]
)


def request_table(world: World, users: Users, log: Log, request_id: Ints) -> pa.Table:
    """The rows of `log` in its own order; see `SCHEMA`."""
    owner = log.owner
    columns = [
        pa.array(request_id),
        _names(world.surfaces.names, log.surface),
        pa.array(log.time),
        pa.array(users.user_id[owner]),
        _names(COUNTRIES, users.country[owner]),
        _nullable(users.age_group[owner]),
        pa.array((log.time / HOUR_MS % 24).astype(np.float32)),
        _lists(users.interests[owner], users.interest_count[owner]),
        _nullable(np.where(log.query >= 0, world.query_id[log.query], -1)),
        _nullable(np.where(log.seed >= 0, world.item_id[log.seed], -1)),
        _nullable(np.where(log.seed >= 0, world.category[log.seed], -1)),
        _history(world, log),
        _candidates(world, log),
    ]
    return pa.table(columns, schema=SCHEMA)


def _history(world: World, log: Log) -> pa.ListArray:
    """The user's last clicks on any surface before each request, oldest first.

    All clicks of a user, in the order of time, are one run of `event_*`; the history of a request
    is the end of the part of that run which lies before it.
    """
    request, column = np.nonzero(log.click)
    item = log.item[request, column]
    action = actions(world, log.surface, log.second)[request, column]
    clicks = log.click.sum(axis=1)
    before = np.cumsum(clicks) - clicks
    new_user = np.concatenate([[True], log.owner[1:] != log.owner[:-1]])
    user_start = before[new_user][np.cumsum(new_user) - 1]
    start = np.maximum(user_start, before - HISTORY_LENGTH)
    length = before - start
    offsets = np.concatenate([[0], np.cumsum(length)])
    event = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
    age = (np.repeat(log.time, length) - log.time[request[event]]) / HOUR_MS
    values = pa.StructArray.from_arrays(
        [
            pa.array(world.item_id[item[event]]),
            pa.array(world.category[item[event]]),
            pa.array(action[event]),
            pa.array(age.astype(np.float32)),
        ],
        fields=list(_EVENT),
    )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _candidates(world: World, log: Log) -> pa.ListArray:
    shown = log.shown
    item = log.item[shown]
    second_task = world.surfaces.second_task[log.surface]
    second_task = np.broadcast_to(second_task[:, None], shown.shape)[shown]
    labels, truths = [pa.array(log.click[shown].astype(np.int8))], [_float(log.click_p[shown])]
    for number in range(len(SECOND_TASKS)):
        absent = second_task != number
        labels.append(pa.array(log.second[shown].astype(np.int8), mask=absent))
        truths.append(pa.array(log.second_p[shown].astype(np.float32), mask=absent))
    values = pa.StructArray.from_arrays(
        [
            pa.array(world.item_id[item]),
            pa.array(world.category[item]),
            _lists(world.tags[item], world.tag_count[item]),
            _float(world.price[item]),
            _float(world.quality[item]),
            _float(log.match[shown]),
            *labels,
            *truths,
        ],
        fields=list(_CANDIDATE),
    )
    offsets = np.concatenate([[0], np.cumsum(shown.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _lists(padded: Ints, length: Ints) -> pa.ListArray:
    """The first `length[i]` of each row; null where there is none."""
    offsets = np.concatenate([[0], np.cumsum(length)])
    kept = np.arange(padded.shape[1]) < length[:, None]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(padded[kept]), mask=pa.array(length == 0)
    )


def _names(names: tuple[str, ...], index: Ints) -> pa.Array:
    return pa.array(names, pa.string()).take(_nullable(index))


def _nullable(values: Ints) -> pa.Array:
    """-1 becomes null."""
    return pa.array(values, mask=values < 0)


def _float(values: Floats | NDArray[np.float32]) -> pa.Array:
    """NaN becomes null."""
    return pa.array(values.astype(np.float32), mask=np.isnan(values))

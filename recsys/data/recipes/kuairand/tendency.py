"""What is left of an outcome after the user's and the video's own tendency.

The residuals of `rates` know the tab and the duration only: a video that long-viewers were shown
looks good by them. Here an event's residual is taken once more against what the user, the video,
or both had shown before it, in the prior sequences and in the log; and long views of the prior
sequences and of the log are put into one mean, as neither alone has many events.
"""

import numpy as np

from recsys.data.recipes.kuairand.causal import ONE, CausalSums
from recsys.data.recipes.kuairand.prior_features import KEYS as PRIOR_KEYS
from recsys.data.recipes.kuairand.prior_features import PriorFeatures
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests
from recsys.data.recipes.kuairand.static import RowsById

OUTCOMES = ("click", "long_view", "play")
# The prior sequences know long views only. A long view more per event goes with about as much of
# a click, and with twice as much of the logarithm of the seconds played.
PRIOR_SCALE = {"click": 1.0, "long_view": 1.0, "play": 2.0}
WEIGHTS = {"user": 10, "video": 20}
# Which residual a key takes; every other one is a pair and takes `both`.
KINDS = {
    "user": "user",
    "user_tab": "user",
    "video": "item",
    "video_tab": "item",
    "author": "item",
    "tag": "item",
}


def _tendency(
    key: str, log: Columns, sums: CausalSums, prior: PriorFeatures | None
) -> dict[str, np.ndarray]:
    """Outcome -> `[E]` mean residual of each event's user or video before it, times `ONE`."""
    total, count = np.zeros(len(log["time_ms"])), np.zeros(len(log["time_ms"]))
    if prior is not None:
        ids, have = np.unique(prior.columns[f"{key}_id"], return_inverse=True)
        place = RowsById(ids)(log[f"{key}_id"])
        left = np.bincount(have, prior.residual["long_view"][KINDS[key]])
        total = np.where(place >= 0, left[place], 0.0)
        count = np.where(place >= 0, np.bincount(have)[place], 0)
    past = sums.slices(log[f"code.{key}"], log["time_ms"])
    tendency = {}
    for task in OUTCOMES:
        of_log = sums.sum(f"{task}.residual", past) / ONE
        mean = (of_log + PRIOR_SCALE[task] * total) / (past.count + count + WEIGHTS[key])
        tendency[task] = np.rint(mean * ONE).astype(np.int64)
    return tendency


def net_values(
    log: Columns, values: Columns, sums: dict[str, CausalSums], prior: PriorFeatures | None
) -> Columns:
    """Integers of `ONE` parts, `TASK.user`, `TASK.item` and `TASK.both`, for `OUTCOMES`.

    `user`: the residual less the video's tendency; `item`: less the user's; `both`: less both.
    """
    user = _tendency("user", log, sums["user"], prior)
    video = _tendency("video", log, sums["video"], prior)
    net = {}
    for task in OUTCOMES:
        residual = values[f"{task}.residual"]
        net[f"{task}.user"] = residual - video[task]
        net[f"{task}.item"] = residual - user[task]
        net[f"{task}.both"] = residual - user[task] - video[task]
    return net


def add_net(
    keys: dict[str, tuple[tuple[str, ...], float, tuple[str, ...], bool]],
    log: Columns,
    requests: Requests,
    sums: dict[str, CausalSums],
    request: Columns,
    candidate: Columns,
) -> None:
    """Adds means of the net residuals of each key, `KEY_net_TASK`; `sums` hold `net_values`.

    `KEY_net_all_long_view` has the prior sequences in it too; their columns are there already.
    """
    for key, (_, weight, _, of_request) in keys.items():
        target, rows, time = (
            (request, requests.first, requests.time)
            if of_request
            else (candidate, requests.rows, requests.as_of())
        )
        kind = KINDS.get(key, "both")
        past = sums[key].slices(log[f"code.{key}"][rows], time)
        for task in OUTCOMES:
            total = sums[key].sum(f"{task}.{kind}", past) / ONE
            target[f"{key}_net_{task}"] = total / (past.count + weight)
            if task == "long_view" and key in PRIOR_KEYS:
                count = target[f"prior_{key}_count"] + PRIOR_KEYS[key][1]
                of_prior = target[f"prior_{key}_long_view_residual"] * count
                # Absent prior sequences leave the mean of the log.
                total = total + np.nan_to_num(of_prior)
                count = np.where(np.isnan(count), weight, count)
                target[f"{key}_net_all_long_view"] = total / (past.count + count)
                target[f"{key}_net_all_long_view_z"] = total / np.sqrt(past.count + count)
            if kind == "user":
                for n in (5, 20):
                    latest = past.last(n)
                    total = sums[key].sum(f"{task}.user", latest) / ONE
                    target[f"{key}_net_{task}_last{n}"] = total / (latest.count + n / 4)

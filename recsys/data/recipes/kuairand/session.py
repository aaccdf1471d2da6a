"""Where a request stands in the user's session, and how its tab has done lately."""

import numpy as np

from recsys.data.recipes.kuairand.causal import CausalSums, dense_codes
from recsys.data.recipes.kuairand.rates import rate_features
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import (
    DAY_MS,
    HOUR_MS,
    LOCAL_OFFSET_MS,
    Requests,
    local_day_start,
)

# A pause this long ends a session.
PAUSE_MS = HOUR_MS // 2
OUTCOMES = ("click", "long_view", "watch", "play")
SESSION_WEIGHT = 3
TAB_WEIGHT = 50
HOUR_WEIGHT = 100


def _session_starts(log: Columns) -> np.ndarray:
    """`[E]` time of the first event of each event's session; nothing later plays a part."""
    user, time = log["user_id"], log["time_ms"]
    order = np.lexsort((time, user))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = np.diff(user[order]) != 0
    begins[1:] |= np.diff(time[order]) > PAUSE_MS
    start = np.empty(len(order), dtype=np.int64)
    start[order] = time[order][np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return start


def _add_user(log: Columns, requests: Requests, sums: CausalSums, request: Columns) -> None:
    time = requests.time
    code = log["code.user"][requests.first]
    past = sums.slices(code, time)
    pause = time - sums.last_time(past)
    start = sums.last(_session_starts(log), past)
    since = np.where(pause <= PAUSE_MS, start, time).astype(np.int64)
    request["session_minutes"] = (time - since) / 60_000
    session = sums.slices(code, time, since)
    today = sums.slices(code, time, local_day_start(time))
    for name, slices in (("session", session), ("user_today", today)):
        request |= rate_features(sums, slices, name, tasks=OUTCOMES, weight=SESSION_WEIGHT)
    # How long ago the last video ended; negative where it would still be playing.
    request["user_idle_s"] = (pause - sums.last(log["play_time_ms"], past)) / 1000


def _add_tab(log: Columns, requests: Requests, values: Columns, request: Columns) -> None:
    hour = (log["time_ms"] + LOCAL_OFFSET_MS) // HOUR_MS % 24
    tab, tab_hour = dense_codes(log["tab"]), dense_codes(log["tab"], hour)
    sums = {"tab": CausalSums(tab, log["time_ms"], values)}
    sums["hour"] = CausalSums(tab_hour, log["time_ms"], values)
    first, time = requests.first, requests.time
    slices = {
        f"tab_{name}": ("tab", sums["tab"].slices(tab[first], time, time - window), TAB_WEIGHT)
        for name, window in (("1h", HOUR_MS), ("6h", 6 * HOUR_MS), ("24h", DAY_MS))
    }
    slices["tab_hour"] = ("hour", sums["hour"].slices(tab_hour[first], time), HOUR_WEIGHT)
    for name, (key, events, weight) in slices.items():
        features = rate_features(sums[key], events, name, tasks=OUTCOMES[:3], weight=weight)
        # How many rows the log has of a tab says how it was sampled, nothing about the user.
        del features[f"{name}_count"]
        request |= features


def add_session(
    log: Columns, requests: Requests, of_user: CausalSums, values: Columns, request: Columns
) -> None:
    """Adds the user's session and day so far, the last event, and the tab's recent residuals."""
    _add_user(log, requests, of_user, request)
    _add_tab(log, requests, values, request)

"""The inputs of each request and candidate, all from before the request's first impression."""

from dataclasses import dataclass, field

import numpy as np

from recsys.data.recipes.kuairand import affinity, neighbours, read
from recsys.data.recipes.kuairand.causal import CausalSums, dense_codes
from recsys.data.recipes.kuairand.options import TASKS
from recsys.data.recipes.kuairand.prior_features import PriorFeatures, absent_prior_features
from recsys.data.recipes.kuairand.rates import (
    FIRST_GUESS,
    WATCH,
    Expectation,
    event_values,
    rate_features,
)
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import (
    DAY_MS,
    HOUR_MS,
    LOCAL_OFFSET_MS,
    Requests,
    local_day_start,
)
from recsys.data.recipes.kuairand.session import add_session
from recsys.data.recipes.kuairand.static import RowsById, Videos, duration_bucket, take
from recsys.data.recipes.kuairand.tendency import add_net, net_values

ALL = tuple(TASKS)
FREQUENT = ("click", "long_view")

# key -> (its log columns, smoothing weight in events, tasks, is it the same for all candidates)
KEYS: dict[str, tuple[tuple[str, ...], float, tuple[str, ...], bool]] = {
    "user": (("user_id",), 10, ALL, True),
    "user_tab": (("user_id", "tab"), 10, ALL, True),
    "video": (("video_id",), 20, ALL, False),
    "video_tab": (("video_id", "tab"), 20, FREQUENT, False),
    "author": (("author_id",), 20, ALL, False),
    "tag": (("tag_id",), 100, ALL, False),
    "user_author": (("user_id", "author_id"), 3, FREQUENT, False),
    "user_tag": (("user_id", "tag_id"), 5, ALL, False),
    "user_video": (("user_id", "video_id"), 2, FREQUENT, False),
    "user_duration": (("user_id", "bucket"), 5, FREQUENT, False),
}
# Keys with so few events that the day-lagged rate adds nothing to the one up to now.
SPARSE_KEYS = ("user_author", "user_tag", "user_video", "user_duration")


@dataclass
class Features:
    """Columns by name: `[R]` of requests, `[N]` of candidates. NaN or None = absent."""

    request: Columns = field(default_factory=dict)
    candidate: Columns = field(default_factory=dict)


def _static(
    log: Columns, requests: Requests, users: Columns | None, videos: Videos, out: Features
) -> None:
    user = log["user_id"][requests.first]
    names = (*read.USER_STRINGS, *read.USER_NUMBERS, *read.USER_INTEGERS)
    if users is None:
        users = {"user_id": np.zeros(0, np.int64)}
        users |= {n: np.zeros(0, object if n in read.USER_STRINGS else float) for n in names}
    rows = RowsById(users["user_id"])(user)
    out.request |= {name: take(users[name], rows) for name in names}

    candidates, time = requests.rows, requests.as_of()
    rows = videos.row(log["video_id"][candidates])
    for name in (*read.VIDEO_IDS, *read.VIDEO_STRINGS, *read.VIDEO_NUMBERS):
        out.candidate[name] = take(videos.table[name], rows)
    duration = log["duration_ms"][candidates]
    out.candidate["duration_s"] = np.where(duration > 0, duration / 1000, np.nan)
    out.candidate["duration_bucket"] = log["bucket"][candidates]
    upload = take(videos.table["upload_day"], rows)
    out.candidate["video_age_days"] = (time + LOCAL_OFFSET_MS) / DAY_MS - upload


def _recency(log: Columns, requests: Requests, sums: dict[str, CausalSums], out: Features) -> None:
    first, time = requests.first, requests.time
    for key in ("user", "user_tab"):
        code = log[f"code.{key}"][first]
        past = sums[key].slices(code, time)
        out.request[f"{key}_hours_since_event"] = (time - sums[key].last_time(past)) / HOUR_MS
        for name, window in (("10min", HOUR_MS // 6), ("1h", HOUR_MS), ("24h", DAY_MS)):
            recent = sums[key].slices(code, time, time - window)
            out.request[f"{key}_count_{name}"] = recent.count.astype(np.float64)
        for n in (1, 5, 20):
            latest = past.last(n)
            features = rate_features(
                sums[key], latest, f"{key}_last{n}", tasks=(*FREQUENT, *WATCH), weight=n / 4
            )
            del features[f"{key}_last{n}_count"]
            out.request |= features
    as_of, rows = requests.as_of(), requests.rows
    for key in ("user_video", "user_author", "user_tag"):
        code = log[f"code.{key}"][rows]
        past = sums[key].slices(code, as_of)
        out.candidate[f"{key}_hours_since_event"] = (as_of - sums[key].last_time(past)) / HOUR_MS
    for key in ("video", "tag"):
        code = log[f"code.{key}"][rows]
        recent = sums[key].slices(code, as_of, as_of - DAY_MS)
        out.candidate |= rate_features(
            sums[key], recent, f"{key}_24h", tasks=FREQUENT, weight=KEYS[key][1]
        )


def make_features(
    log: Columns,
    requests: Requests,
    users: Columns | None,
    videos: Videos,
    prior: PriorFeatures | None,
) -> Features:
    """All inputs. `log` gains `author_id`, `tag_id`, `bucket` and a `code.KEY` for each key."""
    out = Features()
    log["author_id"] = videos.author(log["video_id"])
    log["tag_id"] = videos.first_tag(log["video_id"])
    log["bucket"] = duration_bucket(log["duration_ms"])
    _static(log, requests, users, videos, out)

    hours = (requests.time + LOCAL_OFFSET_MS) // HOUR_MS
    out.request["hour"] = (hours % 24).astype(np.int64)
    # 1970-01-01 was a Thursday; 0 is Monday.
    out.request["weekday"] = (hours // 24 + 3) % 7

    expectation = Expectation(log, log["bucket"])
    values = event_values(log, expectation)
    as_of = requests.as_of()
    expected = {task: expectation.at(task, requests.rows, as_of) for task in TASKS}
    out.candidate |= {f"expected_{task}": value for task, value in expected.items()}

    sums: dict[str, CausalSums] = {}
    for key, (columns, weight, tasks, of_request) in KEYS.items():
        log[f"code.{key}"] = dense_codes(*(log[column] for column in columns))
        sums[key] = CausalSums(log[f"code.{key}"], log["time_ms"], values)
        rows, time = (requests.first, requests.time) if of_request else (requests.rows, as_of)
        target = out.request if of_request else out.candidate
        code = log[f"code.{key}"][rows]
        past = sums[key].slices(code, time)
        target |= rate_features(
            sums[key], past, f"{key}_past", tasks=tasks, weight=weight, expected=FIRST_GUESS
        )
        target |= rate_features(sums[key], past, f"{key}_past", tasks=WATCH, weight=weight)
        if key not in SPARSE_KEYS:
            days = sums[key].slices(code, local_day_start(time))
            target |= rate_features(
                sums[key], days, f"{key}_day", tasks=tasks, weight=weight, expected=FIRST_GUESS
            )
    _recency(log, requests, sums, out)
    add_session(log, requests, sums["user"], values, out.request)
    if prior is None:
        absent_prior_features(requests, out.request, out.candidate)
    else:
        prior.add(log, requests, out.request, out.candidate)
    net = net_values(log, values, sums, prior)
    for of_key in sums.values():
        of_key.add_values(net)
    add_net(KEYS, log, requests, sums, out.request, out.candidate)
    if prior is None or prior.affinity is None:
        for name in (*affinity.NAMES, *neighbours.NAMES):
            out.candidate[name] = np.full(len(as_of), np.nan)
        for name in neighbours.REQUEST_NAMES:
            out.request[name] = np.full(len(requests.time), np.nan)
    else:
        prior.affinity.add(log, values, requests, out.candidate)
        neighbours.add(prior, log, values | net, requests, out.request, out.candidate)
    return out

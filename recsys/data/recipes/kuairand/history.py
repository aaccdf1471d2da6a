"""The history of each request: prior watches, then log events strictly before it."""

import numpy as np
import pyarrow as pa

from recsys.data.recipes.kuairand.causal import ONE
from recsys.data.recipes.kuairand.options import KuaiRandOptions
from recsys.data.recipes.kuairand.prior import Prior
from recsys.data.recipes.kuairand.rates import watch_values
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests
from recsys.data.recipes.kuairand.static import Videos, duration_bucket

# Bits of a history event's `action`.
CLICK, LONG_VIEW, LIKE, PROFILE_ENTER = 1, 2, 4, 8


def _actions(log: Columns) -> np.ndarray:
    return (
        CLICK * log["click"]
        + LONG_VIEW * log["long_view"]
        + LIKE * log["like"]
        + PROFILE_ENTER * log["profile_enter"]
    )


def make_history(
    log: Columns,
    requests: Requests,
    prior: Prior | None,
    videos: Videos,
    options: KuaiRandOptions,
) -> pa.ListArray:
    """`[R]` lists of structs, oldest first, at most `history_length` each.

    Fields: video_id, author_id, tag (the first of the video's), duration_bucket, action (`CLICK` …
    bits; a prior watch is a click, and has the long-view and like bits where known), and what is
    null for a prior watch: tab, age_hours (float32, from the event to the request), watch (float32,
    the share of the video that was played, at most 2). The actions mean the same on both kinds of
    events, so that what a model learns of prior watches holds for those of the log.
    """
    none = np.zeros(0, np.int64)
    p = len(prior.user) if prior else 0
    n = len(log["user_id"])
    user = np.concatenate([prior.user if prior else none, log["user_id"]])
    video = np.concatenate([prior.video if prior else none, log["video_id"]])
    prior_action = CLICK + LONG_VIEW * prior.long_view + LIKE * prior.like if prior else none
    prior_bucket = duration_bucket(videos.duration_ms(prior.video)) if prior else none
    action = np.concatenate([prior_action, _actions(log)])
    # Prior watches come before every log event and keep their own order.
    time = np.concatenate([np.full(p, -1), log["time_ms"]])
    tab = np.concatenate([np.full(p, -1), log["tab"]])
    bucket = np.concatenate([prior_bucket, duration_bucket(log["duration_ms"])])
    watch = np.concatenate([np.zeros(p), watch_values(log)["watch"] / ONE])
    order = np.lexsort((np.arange(p + n), time, user))
    user, video, bucket, action, time, tab, watch = (
        x[order] for x in (user, video, bucket, action, time, tab, watch)
    )

    # One sorted integer a row, so that one binary search finds each request's place.
    ids, codes = np.unique(user, return_inverse=True)
    asked = np.searchsorted(ids, log["user_id"][requests.first])
    span = int(time.max(initial=0)) + 2
    stop = np.searchsorted(codes * span + time + 1, asked * span + requests.time + 1, side="left")
    start = np.searchsorted(codes, asked, side="left")
    start = np.maximum(start, stop - options.history_length)
    sizes = stop - start
    offsets = np.append(0, np.cumsum(sizes))
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - start, sizes)

    video, tab = video[index], tab[index]
    author, tag = videos.author(video), videos.first_tag(video)
    age = (np.repeat(requests.time, sizes) - time[index]) / 3_600_000
    is_prior = tab < 0
    struct = pa.StructArray.from_arrays(
        [
            pa.array(video),
            pa.array(author, mask=author < 0),
            pa.array(tag, mask=tag < 0),
            pa.array(bucket[index]),
            pa.array(action[index]),
            pa.array(tab, mask=is_prior),
            pa.array(age.astype(np.float32), mask=is_prior),
            pa.array(watch[index].astype(np.float32), mask=is_prior),
        ],
        names=[
            "video_id",
            "author_id",
            "tag",
            "duration_bucket",
            "action",
            "tab",
            "age_hours",
            "watch",
        ],
    )
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), struct)

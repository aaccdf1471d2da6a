"""The user's latest events that are most like a candidate, and how the latest events went.

Events are prior watches and then those of the log strictly before the request. Likeness is the
cosine of the video embeddings of `affinity`, or nearness of the durations.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.recipes.kuairand.causal import ONE
from recsys.data.recipes.kuairand.prior_features import PriorFeatures
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests
from recsys.data.recipes.kuairand.static import UNKNOWN_DURATION
from recsys.data.recipes.kuairand.tendency import PRIOR_SCALE

LENGTH = 60
# Candidates at once: a few dozen MB of memory.
CHUNK = 4096
# Weight of an event whose duration bucket is this far from the candidate's.
NEAR = (1.0, 0.7, 0.4, 0.2, 0.1)
DECAY = 0.93
RECENT = (5, 10, 20, 40)
REQUEST_NAMES = (*(f"user_latest{n}_long_view" for n in RECENT), "user_latest_long_view")
NAMES = (
    "alike_long_view",
    "most_alike_long_view",
    "most_alike_play",
    "nearest_long_viewed",
    "nearest_skipped",
    "like_duration_long_view",
    "like_duration_play",
)


@dataclass
class Events:
    """`[P + E]` prior watches and log events, sorted by user and time."""

    user: np.ndarray
    time: np.ndarray
    video: np.ndarray
    bucket: np.ndarray
    long_view: np.ndarray
    tendency: np.ndarray  # long view beyond what the video would let one expect
    rest: np.ndarray  # … and beyond what the user would
    rest_play: np.ndarray

    def __post_init__(self) -> None:
        self._ids, self._code = np.unique(self.user, return_inverse=True)
        # One sorted integer an event; a prior watch has time -1.
        self._span = int(self.time.max(initial=0)) + 2
        self._key = self._code * self._span + self.time + 1

    def latest(self, user: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`[LENGTH, N]` indices of each user's latest events, latest first, and which exist."""
        asked = np.searchsorted(self._ids, user)
        stop = np.searchsorted(self._key, asked * self._span + before + 1, side="left")
        start = np.searchsorted(self._code, asked, side="left")
        index = stop - 1 - np.arange(LENGTH)[:, None]
        exists = index >= start
        return np.where(exists, index, 0), exists


def _events(prior: PriorFeatures, log: Columns, values: Columns) -> Events:
    watched = prior.prior
    residual = prior.residual["long_view"]
    order = np.lexsort(
        (
            np.concatenate([np.full(len(watched.user), -1), log["time_ms"]]),
            np.concatenate([watched.user, log["user_id"]]),
        )
    )

    def join(of_prior: np.ndarray, of_log: np.ndarray) -> np.ndarray:
        return np.concatenate([of_prior, of_log])[order]

    return Events(
        join(watched.user, log["user_id"]),
        join(np.full(len(watched.user), -1), log["time_ms"]),
        join(watched.video, log["video_id"]),
        join(prior.columns["bucket"], log["bucket"]),
        join(watched.long_view, log["long_view"]),
        join(residual["user"], values["long_view.residual"] / ONE),
        join(residual["both"], values["long_view.both"] / ONE),
        join(residual["both"] * PRIOR_SCALE["play"], values["play.both"] / ONE),
    )


def _add_latest(events: Events, log: Columns, requests: Requests, request: Columns) -> None:
    index, exists = events.latest(log["user_id"][requests.first], requests.time)
    left = np.where(exists, events.tendency[index], 0.0)
    for n in RECENT:
        count = exists[:n].sum(axis=0)
        request[f"user_latest{n}_long_view"] = left[:n].sum(axis=0) / (count + n / 4)
    weight = np.cumprod(np.full(LENGTH, DECAY))[:, None] * exists
    request["user_latest_long_view"] = (weight * left).sum(axis=0) / (weight.sum(axis=0) + 2)


def add(
    prior: PriorFeatures,
    log: Columns,
    values: Columns,
    requests: Requests,
    request: Columns,
    candidate: Columns,
) -> None:
    """Adds `REQUEST_NAMES` to `request` and `NAMES` to `candidate`.

    `values` hold the log's integers of `event_values` and `net_values`. Sums run over the first
    axis and products over one dimension at a time: in that order each candidate's result is the
    same to the bit whichever others there are.
    """
    assert prior.affinity is not None  # without it the caller leaves these columns absent
    events = _events(prior, log, values)
    _add_latest(events, log, requests, request)
    user, video = log["user_id"][requests.rows], log["video_id"][requests.rows]
    bucket, as_of = log["bucket"][requests.rows], requests.as_of()
    of_event = np.ascontiguousarray(prior.affinity.directions(events.video).T, dtype=np.float32)
    of_candidate = prior.affinity.directions(video).astype(np.float32)
    near = np.zeros(UNKNOWN_DURATION + 1)
    near[: len(NEAR)] = NEAR
    columns = {name: np.empty(len(video)) for name in NAMES}
    for begin in range(0, len(video), CHUNK):
        part = slice(begin, begin + CHUNK)
        index, exists = events.latest(user[part], as_of[part])
        cosine = np.zeros(index.shape, np.float32)
        for d, of_dimension in enumerate(of_event):
            cosine += of_dimension[index] * of_candidate[part, d]
        rest = np.where(exists, events.rest[index], 0.0)
        play = np.where(exists, events.rest_play[index], 0.0)
        alike = np.where(exists, np.maximum(cosine, 0), 0).astype(np.float64)
        square = alike * alike
        most = square * square * alike
        same = np.where(exists, near[np.abs(events.bucket[index] - bucket[part])], 0.0)
        long_viewed = events.long_view[index] == 1

        def mean(weight: np.ndarray, value: np.ndarray, more: float) -> np.ndarray:
            return (weight * value).sum(axis=0) / (weight.sum(axis=0) + more)

        columns["alike_long_view"][part] = mean(square, rest, 1.0)
        columns["most_alike_long_view"][part] = mean(most, rest, 0.3)
        columns["most_alike_play"][part] = mean(most, play, 0.3)
        columns["like_duration_long_view"][part] = mean(same, rest, 4.0)
        columns["like_duration_play"][part] = mean(same, play, 4.0)
        for name, which in (("long_viewed", long_viewed), ("skipped", ~long_viewed)):
            nearest = np.where(exists & which, cosine, -1).max(axis=0)
            columns[f"nearest_{name}"][part] = nearest
    candidate |= columns

"""Aggregates of the prior sequences, per user, video, author and tag."""

import numpy as np

from recsys.data.recipes.kuairand.affinity import Affinity
from recsys.data.recipes.kuairand.causal import dense_codes
from recsys.data.recipes.kuairand.prior import Prior
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests
from recsys.data.recipes.kuairand.static import Videos, duration_bucket

# key -> (its columns, smoothing weight in watches, is it the same for all candidates)
KEYS: dict[str, tuple[tuple[str, ...], float, bool]] = {
    "user": (("user_id",), 10, True),
    "video": (("video_id",), 10, False),
    "author": (("author_id",), 10, False),
    "tag": (("tag_id",), 50, False),
    "user_author": (("user_id", "author_id"), 2, False),
    "user_tag": (("user_id", "tag_id"), 4, False),
    "user_video": (("user_id", "video_id"), 1, False),
    "user_duration": (("user_id", "bucket"), 4, False),
}
OLDER_KEYS = {
    "user": ("user_id",),
    "video": ("video_id",),
    "user_video": ("user_id", "video_id"),
}
SWEEPS = 6


class PriorFeatures:
    """Counts, rates and residuals of watched videos."""

    def __init__(self, prior: Prior, videos: Videos):
        self.prior = prior
        self.columns = {
            "user_id": prior.user,
            "video_id": prior.video,
            "author_id": videos.author(prior.video),
            "tag_id": videos.first_tag(prior.video),
            "bucket": duration_bucket(videos.duration_ms(prior.video)),
        }
        self.residual = {
            "long_view": self._residual(prior.long_view),
            "like": self._residual(prior.like),
        }
        self.affinity: Affinity | None = None
        if min(len(np.unique(prior.user)), len(np.unique(prior.video))) > 2:
            self.affinity = Affinity(prior, self.residual["long_view"]["both"])

    def _residual(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """What is left of y after its duration bucket, and after the other one of user and video.

        `y = E[bucket] + a[user] + b[video] + rest`, a and b shrunk and fitted in turn. A user's
        residual is taken against the videos watched, a video's against its watchers.
        """
        bucket = self.columns["bucket"]
        n = np.bincount(bucket)
        mean = y.mean() if len(y) else 0.0
        expected = (np.bincount(bucket, y) + 50 * mean) / (n + 50)
        left = y - expected[bucket]
        user, video = dense_codes(self.prior.user), dense_codes(self.prior.video)
        n_user, n_video = np.bincount(user), np.bincount(video)
        of_video = np.zeros(len(n_video))
        for _ in range(SWEEPS):
            of_user = np.bincount(user, left - of_video[video]) / (n_user + 10)
            of_video = np.bincount(video, left - of_user[user]) / (n_video + 10)
        return {
            "user": left - of_video[video],
            "item": left - of_user[user],
            "both": left - of_user[user] - of_video[video],
        }

    def residual_sum(self, key: str, task: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(sum of residuals, number of watches) of each user or video, 0 where it has none."""
        kind = "user" if key == "user" else "item"
        code = dense_codes(np.concatenate([self.columns[f"{key}_id"], ids]))
        have, ask = np.split(code, [len(self.prior.user)])
        size = int(code.max(initial=-1)) + 1
        total = np.bincount(have, self.residual[task][kind], minlength=size)
        return total[ask], np.bincount(have, minlength=size)[ask]

    def _add_older(
        self, log: Columns, requests: Requests, request: Columns, candidate: Columns
    ) -> None:
        """Long views from before the watches: how many of the user, of the video, of both."""
        older = {"user_id": self.prior.older_user, "video_id": self.prior.older_video}
        for key, columns in OLDER_KEYS.items():
            rows, target = (
                (requests.first, request) if key == "user" else (requests.rows, candidate)
            )
            code = dense_codes(*(np.concatenate([older[c], log[c][rows]]) for c in columns))
            have, ask = np.split(code, [len(self.prior.older_user)])
            count = np.bincount(have, minlength=int(code.max(initial=-1)) + 1)
            target[f"prior_{key}_older_count"] = count[ask].astype(np.float64)

    def add(self, log: Columns, requests: Requests, request: Columns, candidate: Columns) -> None:
        self._add_older(log, requests, request, candidate)
        for key, (columns, weight, of_request) in KEYS.items():
            rows = requests.first if of_request else requests.rows
            target = request if of_request else candidate
            p = len(self.prior.user)
            code = dense_codes(*(np.concatenate([self.columns[c], log[c][rows]]) for c in columns))
            size = int(code.max(initial=-1)) + 1
            have, ask = code[:p], code[p:]
            count = np.bincount(have, minlength=size)
            target[f"prior_{key}_count"] = count[ask].astype(np.float64)
            which = {"user": "user", "video": "item", "author": "item", "tag": "item"}
            for task in ("long_view", "like"):
                y = getattr(self.prior, task)
                total = np.bincount(have, y, minlength=size)
                left = self.residual[task][which.get(key, "both")]
                left = np.bincount(have, left, minlength=size)
                mean = y.mean() if p else 0.0
                target[f"prior_{key}_{task}_rate"] = ((total + weight * mean) / (count + weight))[
                    ask
                ]
                target[f"prior_{key}_{task}_residual"] = (left / (count + weight))[ask]


def absent_prior_features(requests: Requests, request: Columns, candidate: Columns) -> None:
    """The same columns, all NaN, so that the table has one schema whatever was found."""
    for key, (_, _, of_request) in KEYS.items():
        target, size = (request, requests.first) if of_request else (candidate, requests.rows)
        target[f"prior_{key}_count"] = np.full(len(size), np.nan)
        for task in ("long_view", "like"):
            for kind in ("rate", "residual"):
                target[f"prior_{key}_{task}_{kind}"] = np.full(len(size), np.nan)
        if key in OLDER_KEYS:
            target[f"prior_{key}_older_count"] = np.full(len(size), np.nan)

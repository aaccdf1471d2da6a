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

    def add(self, log: Columns, requests: Requests, request: Columns, candidate: Columns) -> None:
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

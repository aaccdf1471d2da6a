"""How near a candidate is to what the user watched, by video embeddings of the prior sequences.

The embeddings are the right singular vectors of the user x video matrix of prior watches, each
entry scaled by `1 / sqrt(watches of the user * watches of the video)`. They are older than the
log, so they are causal for every request; what a user did since then enters through sums over
events strictly before the request.
"""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from recsys.data.recipes.kuairand.causal import ONE, CausalSums, dense_codes
from recsys.data.recipes.kuairand.prior import Prior
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests

DIMENSIONS = 32
WEIGHT = 10
NAMES = ("affinity_watched", "affinity_long_view", "affinity_long_view_sum", "affinity_past")


class Affinity:
    """Video embeddings, and each user's place among them before the log begins."""

    def __init__(self, prior: Prior, long_view_residual: np.ndarray):
        """`long_view_residual`: `[P]` what user, video and duration leave of each long view."""
        self._user_ids, user = np.unique(prior.user, return_inverse=True)
        self._video_ids, video = np.unique(prior.video, return_inverse=True)
        self._watches = np.bincount(user)
        size = (len(self._user_ids), len(self._video_ids))
        scale = 1 / np.sqrt(self._watches[user] * np.bincount(video)[video])
        # Entries of a repeated watch add up.
        matrix = csr_matrix((scale, (user, video)), shape=size)
        dimensions = min(DIMENSIONS, *(n - 1 for n in size))
        # A fixed start vector makes the iteration repeatable.
        of_user, strength, of_video = svds(matrix, k=dimensions, v0=np.ones(min(size)))
        self._watched = of_user * strength
        self._video = np.ascontiguousarray(of_video.T)
        norm = np.linalg.norm(self._video, axis=1, keepdims=True)
        self._direction = self._video / np.maximum(norm, 1e-9)
        self._taste = np.stack(
            [
                np.bincount(user, long_view_residual * self._direction[video, d])
                for d in range(dimensions)
            ],
            axis=1,
        )

    def _places(self, ids: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
        return place, ids[place] == asked

    def directions(self, video: np.ndarray) -> np.ndarray:
        """`[N, D]` embeddings of length 1, zeros for a video that nobody watched."""
        place, known = self._places(self._video_ids, video)
        return np.where(known[:, None], self._direction[place], 0.0)

    def add(self, log: Columns, values: Columns, requests: Requests, candidate: Columns) -> None:
        """Adds the columns `NAMES` to `candidate`.

        `affinity_watched` is the user's row of the factorisation times the candidate's column;
        the others are the mean (`_sum`: divided by the root of the count) of long-view residuals
        of the user's events, each times the cosine of its video and the candidate, over prior
        watches and events before the request (`_past`: the latter only). `values` are the log's
        integers to sum.
        """
        rows, as_of = requests.rows, requests.as_of()
        user, knows_user = self._places(self._user_ids, log["user_id"][rows])
        video, knows_video = self._places(self._video_ids, log["video_id"])
        direction = self.directions(log["video_id"])
        residual = values["long_view.residual"]
        code = dense_codes(log["user_id"])
        sums = CausalSums(
            code,
            log["time_ms"],
            {str(d): np.rint(residual * x).astype(np.int64) for d, x in enumerate(direction.T)},
        )
        past = sums.slices(code[rows], as_of)
        of_prior, of_past = np.zeros(len(rows)), np.zeros(len(rows))
        # A loop over the few dimensions keeps memory at one column; a matrix product may also sum
        # in another order when the number of rows changes, and then differ in the last bit.
        watched = np.zeros(len(rows))
        for d in range(direction.shape[1]):
            of_candidate = direction[rows, d]
            of_past += of_candidate * (sums.sum(str(d), past) / ONE)
            of_prior += of_candidate * self._taste[user, d]
            watched += self._watched[user, d] * self._video[video[rows], d]
        of_prior = np.where(knows_user, of_prior, 0.0)
        count = past.count + np.where(knows_user, self._watches[user], 0)
        known = knows_video[rows]
        candidate["affinity_watched"] = np.where(known & knows_user, watched, np.nan)
        total = np.where(known, of_prior + of_past, np.nan)
        candidate["affinity_long_view"] = total / (count + WEIGHT)
        candidate["affinity_long_view_sum"] = total / np.sqrt(count + WEIGHT)
        candidate["affinity_past"] = np.where(known, of_past / (past.count + WEIGHT), np.nan)

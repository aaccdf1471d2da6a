"""User and video effects: prior watches and log events before the request in one number.

The effect of a user (or video) is `(Σ r + k Σ r_prior) / (n + k n_prior + a)`, with r the residual
of a log event against its tab and duration, and r_prior that of a prior watch against its duration
and the other side. `additive_TASK` is the expectation plus both effects: what a linear model with
a weight for each user and video would say, refitted at every moment.
"""

import numpy as np

from recsys.data.recipes.kuairand.causal import ONE, CausalSums
from recsys.data.recipes.kuairand.options import TASKS
from recsys.data.recipes.kuairand.prior_features import PriorFeatures
from recsys.data.recipes.kuairand.read import Columns
from recsys.data.recipes.kuairand.requests import Requests

# A watch of long ago, without its tab, tells half of what an impression of the log does.
PRIOR_WEIGHT = 0.5
SMOOTHING = {"user": 10, "video": 15}
# The mark of a prior watch that stands for a task; nothing is known of profile entries.
PRIOR_TASK = {"click": "long_view", "long_view": "long_view", "like": "like"}


def add_effects(
    log: Columns,
    requests: Requests,
    sums: dict[str, CausalSums],
    prior: PriorFeatures | None,
    request: Columns,
    candidate: Columns,
) -> None:
    """Adds `user_effect_TASK` to requests, `video_effect_TASK`, `additive_TASK` to candidates."""
    for key, rows, time, target in (
        ("user", requests.first, requests.time, request),
        ("video", requests.rows, requests.as_of(), candidate),
    ):
        past = sums[key].slices(log[f"code.{key}"][rows], time)
        for task in TASKS:
            total = sums[key].sum(f"{task}.residual", past) / ONE
            count = past.count + float(SMOOTHING[key])
            if prior is not None and task in PRIOR_TASK:
                ids = log[f"{key}_id"][rows]
                prior_total, prior_count = prior.residual_sum(key, PRIOR_TASK[task], ids)
                total += PRIOR_WEIGHT * prior_total
                count += PRIOR_WEIGHT * prior_count
            target[f"{key}_effect_{task}"] = total / count
    for task in TASKS:
        of_user = np.repeat(request[f"user_effect_{task}"], requests.sizes)
        of_video = candidate[f"video_effect_{task}"]
        candidate[f"additive_{task}"] = candidate[f"expected_{task}"] + of_user + of_video

"""Users of a chunk: who they are, how often they come and when."""

import math
from dataclasses import dataclass, fields

import numpy as np

from recsys.data.recipes.simulate.world import (
    AGE_GROUPS,
    COUNTRIES,
    DIMENSIONS,
    GROUPS,
    TAGS,
    Floats,
    Ints,
    World,
)

# Days of the log: 80 / 10 / 10 of them are train / valid / test.
DAYS = 30
TRAIN_DAYS = 24
VALID_DAYS = 3
START_MS = 1_704_067_200_000  # 2024-01-01T00:00Z
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MAX_INTERESTS = 4
# The share of a day's requests in each hour: a quiet night and a busy evening.
HOUR_SHARE = np.array(
    [2, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5, 6, 6, 5, 5, 5, 6, 7, 8, 9, 9, 7, 4], dtype=np.float64
)
HOUR_SHARE /= HOUR_SHARE.sum()


@dataclass(frozen=True)
class Users:
    """`B` users. Vectors and effects are the truth; country, age and interests are what is logged.

    `country` and `age_group` are -1 and `interest_count` is 0 where the log does not know them.
    """

    user_id: Ints  # [B], ascending
    requests: Ints  # [B]
    vector: Floats  # [B, DIMENSIONS]
    activity: Floats  # [B]
    thrift: Floats  # [B]
    country: Ints  # [B]
    age_group: Ints  # [B]
    interests: Ints  # [B, MAX_INTERESTS]
    interest_count: Ints  # [B]

    def take(self, order: Ints) -> "Users":
        return Users(**{field.name: getattr(self, field.name)[order] for field in fields(self)})


class Activity:
    """How many requests each user makes: Zipf-Mandelbrot, summing to the number of requests.

    The user of rank `r` of `U` gets a share proportional to `(r / U + 0.02) ** -0.9`: the most
    active comes ten times as often as the mean, the median half as often. The shape does not depend
    on `U`. Counts come from a closed form and ranks from a multiplication modulo `U`, so that no
    array over all users is needed.
    """

    _shift, _power = 0.02, 0.1

    def __init__(self, users: int, requests: int) -> None:
        self._users = users
        self._requests = requests
        step = max(1, int(users * (math.sqrt(5) - 1) / 2))
        while math.gcd(step, users) != 1:
            step += 1
        self._step = step

    def of(self, user_id: Ints) -> tuple[Ints, Ints]:
        """First request id and number of requests of each user."""
        rank = user_id * self._step % self._users
        first = self._before(rank)
        return first, self._before(rank + 1) - first

    def _before(self, rank: Ints) -> Ints:
        x = (rank / self._users + self._shift) ** self._power
        low, high = self._shift**self._power, (1 + self._shift) ** self._power
        return np.rint((x - low) / (high - low) * self._requests).astype(np.int64)


def draw_users(world: World, rng: np.random.Generator, user_id: Ints, requests: Ints) -> Users:
    size = len(user_id)
    country = np.searchsorted(np.cumsum(world.country_share), rng.random(size), side="right")
    country = np.minimum(country, len(COUNTRIES) - 1)
    age = rng.integers(0, AGE_GROUPS, size)
    group = _pick(world.group_cumulative[country, age], rng.random(size), GROUPS)
    interests = np.stack(
        [
            _pick(world.interest_cumulative[group], rng.random(size), TAGS)
            for _ in range(MAX_INTERESTS)
        ],
        axis=1,
    )
    return Users(
        user_id=user_id,
        requests=requests,
        vector=world.group_vector[group] + 0.1 * rng.normal(size=(size, DIMENSIONS)),
        activity=rng.normal(size=size),
        thrift=world.age_thrift[age],
        country=np.where(rng.random(size) < 0.03, -1, country),
        age_group=np.where(rng.random(size) < 0.08, -1, age),
        interests=interests,
        # One user in five or so declares nothing.
        interest_count=rng.integers(0, MAX_INTERESTS + 1, size),
    )


def request_times(rng: np.random.Generator, requests: Ints) -> Ints:
    """Milliseconds of every request, strictly ascending within a user, user after user."""
    size = int(requests.sum())
    hour = rng.choice(24, size, p=HOUR_SHARE) + rng.random(size)
    time = rng.integers(0, DAYS, size) * DAY_MS + (hour * HOUR_MS).astype(np.int64)
    owner = np.repeat(np.arange(len(requests)), requests)
    time = time[np.lexsort((time, owner))]
    # Two requests of a user never share a millisecond.
    first = np.repeat(np.cumsum(requests) - requests, requests)
    within = np.arange(size) - first
    return START_MS + time + within


def _pick(cumulative: Floats, uniform: Floats, size: int) -> Ints:
    return np.minimum((uniform[:, None] >= cumulative).sum(axis=1), size - 1)

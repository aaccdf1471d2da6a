"""What the users of a chunk clicked last, while it is being simulated."""

import numpy as np
from numpy.typing import NDArray

from recsys.data.recipes.simulate.users import HOUR_MS
from recsys.data.recipes.simulate.world import ACTION_WEIGHTS, CATEGORIES, Floats, Ints

HISTORY_LENGTH = 50


class Recent:
    """The last HISTORY_LENGTH clicks of every user, as a ring buffer."""

    def __init__(self, users: int) -> None:
        self.item = np.zeros((users, HISTORY_LENGTH), dtype=np.int64)
        self.action = np.zeros((users, HISTORY_LENGTH), dtype=np.int64)  # 0 = no event
        self.time = np.zeros((users, HISTORY_LENGTH), dtype=np.int64)
        self.count = np.zeros(users, dtype=np.int64)

    def add(self, clicked: NDArray[np.bool_], item: Ints, action: Ints, time: Ints) -> None:
        """Appends the clicks of one request of the first `len(clicked)` users, in shown order."""
        user, column = np.nonzero(clicked)
        clicks = clicked.sum(axis=1)
        place = (np.cumsum(clicked, axis=1) - 1)[user, column]
        # With more clicks than places only the last ones stay.
        stays = place >= clicks[user] - HISTORY_LENGTH
        user, column, place = user[stays], column[stays], place[stays]
        slot = (self.count[user] + place) % HISTORY_LENGTH
        self.item[user, slot] = item[user, column]
        self.action[user, slot] = action[user, column]
        self.time[user, slot] = time[user]
        self.count[: len(clicks)] += clicks

    def interest(self, active: int, time: Ints, category: Ints) -> Floats:
        """`[active, CATEGORIES]` share of each category among the recent clicks.

        An event of action weight `a` and age `h` hours counts `a / (1 + h)`: in the words of an
        attention layer, a softmax whose score is `log a - log1p(h)`.
        """
        age_hours = (time[:, None] - self.time[:active]) / HOUR_MS
        weight = ACTION_WEIGHTS[self.action[:active]] / (1.0 + age_hours)
        cell = category[self.item[:active]] + CATEGORIES * np.arange(active)[:, None]
        total = np.bincount(cell.ravel(), weight.ravel(), active * CATEGORIES)
        total = total.reshape(active, CATEGORIES)
        return total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12)

    def event(self, active: int, uniform: Floats) -> Ints:
        """The item of one recent click of each user, -1 without any; 0 is the most recent."""
        known = np.minimum(self.count[:active], HISTORY_LENGTH)
        back = 1 + (uniform * known).astype(np.int64)
        slot = (self.count[:active] - np.minimum(back, np.maximum(known, 1))) % HISTORY_LENGTH
        return np.where(known > 0, self.item[np.arange(active), slot], -1)

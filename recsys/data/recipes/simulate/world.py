"""The fixed part of a simulated world: items, queries, user groups and surfaces.

Every effect is low-dimensional, so that a log of a million candidates covers it: a user belongs to
one of a few groups, an item is a category, a few tags and one appeal of its own. What makes the
world hard for a linear model is that most effects are products: user x item, history x candidate,
query x candidate, surface x price.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.data.recipes.simulate.options import SimulateOptions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CATEGORIES = 20
TAGS = 60
GROUPS = 6
QUERIES = 100
DIMENSIONS = 2
COUNTRIES = ("br", "de", "fr", "gb", "in", "jp", "mx", "us")
AGE_GROUPS = 6

TASKS = ("click", "like", "purchase", "long_view")
# A second task is drawn among the clicks: P(task) = P(click) P(task | click).
SECOND_TASKS = ("like", "purchase", "long_view")
# In the history an action is 1 + the position in TASKS of the strongest thing the user did; its
# weight says how much the event tells about what the user wants next.
ACTION_WEIGHTS = np.array([0.0, 1.0, 1.6, 2.2, 1.6])

# The terms of a logit, each with mean about 0 and variance about 1 over the log.
TERMS = (
    "appeal",  # the item's own, known by its id only
    "affinity",  # user vector . item vector
    "interest",  # share of the item's category in the user's recent history
    "price",  # log price
    "thrift",  # price sensitivity of the user's age group x log price
    "quality",
    "activity",  # the user's own readiness to engage
    "match",  # query_match x how specific the query is
    "fit",  # vector of the query's category . of the item's category
    "similarity",  # vector of the seed's category . of the item's category
    "hour",  # evening against morning
)
_CLICK = {
    "home": {
        "appeal": 0.6, "affinity": 0.3, "interest": 0.85, "price": -0.5, "thrift": 0.1,
        "quality": 0.65, "activity": 0.45, "hour": 0.15,
    },
    "search": {
        "appeal": 0.5, "affinity": 0.2, "interest": 0.25, "price": -0.8, "thrift": 0.1,
        "quality": 0.65, "activity": 0.35, "match": 0.8, "fit": 0.2, "hour": 0.15,
    },
    "related": {
        "appeal": 0.6, "affinity": 0.25, "interest": -0.45, "price": 0.75, "thrift": 0.1,
        "quality": 0.7, "activity": 0.4, "similarity": 0.45, "hour": 0.15,
    },
}  # fmt: skip
_SECOND = {
    "like": {
        "affinity": 0.1,
        "interest": 0.1,
        "appeal": 0.5,
        "price": 0.4,
        "quality": 0.4,
        "activity": 0.4,
    },
    "purchase": {"price": -0.7, "quality": 0.5, "affinity": 0.1, "match": 0.3, "activity": 0.3},
    "long_view": {"quality": 0.7, "affinity": 0.1, "similarity": 0.2, "activity": 0.4},
}


@dataclass(frozen=True)
class Surfaces:
    """What differs between surfaces; the first axis of every array is the surface, `S` of them."""

    names: tuple[str, ...]
    second_task: Ints  # [S], position in SECOND_TASKS
    share: Floats  # [S], of the requests
    candidates: Floats  # [S], mean candidates a request
    click: Floats  # [S, terms], coefficients of the click logit
    click_bias: Floats  # [S]
    second: Floats  # [S, terms], coefficients of the logit of the second task given a click
    second_bias: Floats  # [S]

    def tasks(self, surface: int) -> tuple[str, str]:
        return ("click", SECOND_TASKS[self.second_task[surface]])


class Choice:
    """Draws from a Zipf-popular catalogue, from all of it or from one category.

    Args:
        category: [n] category of each entry, ascending.
        weights: [n] popularity of each entry.
    """

    def __init__(self, category: Ints, weights: Floats) -> None:
        self._cumulative = np.cumsum(weights / weights.sum())
        edges = np.concatenate([[0.0], self._cumulative])
        self._low = edges[np.searchsorted(category, np.arange(CATEGORIES), side="left")]
        self._high = edges[np.searchsorted(category, np.arange(CATEGORIES), side="right")]
        self._size = len(category)

    def draw(self, uniform: Floats, category: Ints) -> Ints:
        """Entries for uniform draws in [0, 1); category -1 means the whole catalogue."""
        anywhere = category < 0
        low = np.where(anywhere, 0.0, self._low[category])
        high = np.where(anywhere, 1.0, self._high[category])
        at = np.searchsorted(self._cumulative, low + uniform * (high - low), side="right")
        return np.minimum(at, self._size - 1)


class World:
    """Everything that does not grow with the number of requests."""

    def __init__(self, options: SimulateOptions) -> None:
        rng = np.random.default_rng([options.seed, 0])
        self.options = options
        items = options.item_count

        # Directions of taste. Rows are standardised so that a dot product has variance about 1.
        self.category_vector = _standard(rng.normal(size=(CATEGORIES, DIMENSIONS)))
        self.tag_vector = _standard(rng.normal(size=(TAGS, DIMENSIONS)))
        self.group_vector = _standard(rng.normal(size=(GROUPS, DIMENSIONS)))

        # Items, in ascending category; `item_id` is the public id of each.
        self.category = np.arange(items) * CATEGORIES // items
        self.item_id = rng.permutation(items)
        self.item_choice = Choice(self.category, rng.permutation(zipf(items, 0.8)))
        self.appeal = rng.normal(size=items)
        self.price_z = np.clip(rng.normal(size=items), -2.5, 2.5)
        self.price = np.expm1(3.0 + 0.7 * self.price_z)
        self.quality_z = np.clip(rng.normal(size=items), -2.5, 2.5)
        # Some items have no rating; the model can still learn their quality by id.
        self.quality = np.where(rng.random(items) < 0.05, np.nan, 0.5 + 0.2 * self.quality_z)
        # Every category owns three tags; two thirds of an item's tags are its category's.
        self.tag_count = rng.integers(0, 4, items)
        own = self.category[:, None] * (TAGS // CATEGORIES) + np.arange(TAGS // CATEGORIES)
        own = rng.permuted(own, axis=1)
        self.tags = np.where(rng.random(own.shape) < 2 / 3, own, rng.integers(0, TAGS, own.shape))
        kept = np.arange(self.tags.shape[1]) < self.tag_count[:, None]
        tag_sum = (self.tag_vector[self.tags] * kept[..., None]).sum(axis=1)
        self.item_vector = _standard(
            self.category_vector[self.category]
            + 0.35 * tag_sum / np.maximum(1, self.tag_count)[:, None]
        )

        # Queries: a category each, and how much a good match matters to who asks it.
        self.query_category = np.arange(QUERIES) * CATEGORIES // QUERIES
        self.query_id = rng.permutation(QUERIES)
        self.query_choice = Choice(self.query_category, rng.permutation(zipf(QUERIES, 0.7)))
        self.query_slope = rng.uniform(0.3, 1.7, QUERIES)
        self.query_vector = _standard(
            self.category_vector[self.query_category] + 0.5 * rng.normal(size=(QUERIES, DIMENSIONS))
        )

        # Who belongs to which group, and what groups say they like.
        self.age_thrift = _standard(rng.normal(size=(AGE_GROUPS, 1)))[:, 0]
        self.country_share = zipf(len(COUNTRIES), 0.8)
        self.group_cumulative = np.cumsum(
            _softmax(1.3 * rng.normal(size=(len(COUNTRIES), AGE_GROUPS, GROUPS))), axis=-1
        )
        self.interest_cumulative = np.cumsum(
            _softmax(1.5 * self.group_vector @ self.tag_vector.T), axis=-1
        )
        self.surfaces = _drifted(_surfaces(options, rng), options.drift)


def zipf(size: int, exponent: float) -> Floats:
    """Shares proportional to `rank ** -exponent`; they sum to 1."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def surface_names(count: int) -> tuple[str, ...]:
    return ("home", "search", "related", *(f"surface_{i}" for i in range(4, count + 1)))[:count]


def _surfaces(options: SimulateOptions, rng: np.random.Generator) -> Surfaces:
    count = options.surfaces
    names = surface_names(count)
    share = np.array([0.38, 0.30, 0.32] + [0.2] * max(0, count - 3))[:count]
    share /= share.sum()
    # Extra candidates beyond the first, relative to the mean: `candidates` stays the mean.
    extra = np.array([1.25, 0.95, 0.75, *rng.uniform(0.5, 1.5, max(0, count - 3))])[:count]
    extra /= (share * extra).sum()
    click = np.zeros((count, len(TERMS)))
    second = np.zeros((count, len(TERMS)))
    for row, name in enumerate(names):
        click[row] = _coefficients(_CLICK.get(name, _CLICK["home"]))
        if name not in _CLICK:
            # Further surfaces are feeds that value the same things otherwise: history and price
            # may even change sign.
            click[row] *= rng.uniform(0.7, 1.3, len(TERMS))
            click[row, TERMS.index("interest")] *= rng.choice([-1.0, 1.0])
            click[row, TERMS.index("price")] = rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 0.8)
        second[row] = _coefficients(_SECOND[SECOND_TASKS[row % 3]])
    rate = np.array([0.24, 0.38, 0.30, *rng.uniform(0.22, 0.4, max(0, count - 3))])[:count]
    second_rate = np.array([0.32, 0.27, 0.36])[np.arange(count) % 3]
    return Surfaces(
        names=names,
        second_task=np.arange(count) % 3,
        share=share,
        candidates=1 + (options.candidates - 1) * extra,
        click=click,
        click_bias=_bias(rate, click),
        second=second,
        second_bias=_bias(second_rate, second),
    )


# What drifts: at 1, price and interest count the other way round, and clicks are rarer.
_DRIFTING = ("price", "interest")
_RARER = 0.8  # logits


def _drifted(surfaces: Surfaces, drift: float) -> Surfaces:
    if not drift:
        return surfaces
    click = surfaces.click.copy()
    click[:, [TERMS.index(term) for term in _DRIFTING]] *= 1 - 2 * drift
    return replace(surfaces, click=click, click_bias=surfaces.click_bias - _RARER * drift)


def _coefficients(named: dict[str, float]) -> Floats:
    return np.array([named.get(term, 0.0) for term in TERMS])


def _bias(rate: Floats, coefficients: Floats) -> Floats:
    """The intercept that gives about this mean rate when the terms are independent normals.

    `E[sigmoid(b + s z)] ~ sigmoid(b / sqrt(1 + pi s^2 / 8))` for a standard normal `z`.
    """
    variance = (coefficients**2).sum(axis=1)
    return np.log(rate / (1 - rate)) * np.sqrt(1 + np.pi * variance / 8)


def _standard(vectors: Floats) -> Floats:
    vectors = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    return vectors / vectors.shape[1] ** 0.25


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

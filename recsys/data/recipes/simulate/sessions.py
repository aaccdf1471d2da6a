"""Request after request of a chunk of users: what is shown, what it is worth, what they do.

The loop runs over time steps; a step is the n-th request of every user of the chunk who has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.data.recipes.simulate.recent import Recent
from recsys.data.recipes.simulate.users import HOUR_MS, Users, request_times
from recsys.data.recipes.simulate.world import TASKS, TERMS, Floats, Ints, World

# Where a candidate comes from: the query's or seed's category, the category of a recent click, or
# the whole catalogue. A surface without a query or seed goes to the next source.
_FROM_CONTEXT = 0.55
_FROM_HISTORY = 0.40
# The share of search requests without words and of related requests without a seed. Such a request
# looks like one of home: only its surface says what it is.
NO_QUERY = 0.30
NO_SEED = 0.25


@dataclass(frozen=True)
class Log:
    """Requests of a chunk, by user and time, with candidates padded to `P` columns.

    Fields are the truth and what is logged. -1 is "none" in `query` and `seed`.
    """

    time: Ints  # [R] ms
    surface: Ints  # [R]
    owner: Ints  # [R], position in Users
    query: Ints  # [R], entry of the world's queries
    seed: Ints  # [R], entry of the world's items
    shown: NDArray[np.bool_]  # [R, P], False in the padding
    item: Ints  # [R, P], entry of the world's items
    match: Floats  # [R, P], query_match; NaN without a query
    click_p: Floats  # [R, P], true probability of a click
    second_p: Floats  # [R, P], true probability of the surface's second task
    click: NDArray[np.bool_]  # [R, P]
    second: NDArray[np.bool_]  # [R, P]
    terms: Floats | None  # [R, P, terms], kept for analysis only

    def rows(self, part: slice) -> "Log":
        """The requests of `part`, which are views of these."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {n: None if v is None else v[part] for n, v in values.items()}
        return Log(**cut)

    def pieces(self, requests: int) -> Iterator[slice]:
        """Runs of whole users of at most `requests` requests; a larger user is one run."""
        ends = np.append(np.flatnonzero(np.diff(self.owner)) + 1, len(self.owner))
        start = 0
        while start < len(self.owner):
            fits = np.searchsorted(ends, start + requests, side="right") - 1
            # The end of the last user that fits, or else of the first one.
            end = int(ends[max(fits, np.searchsorted(ends, start, side="right"))])
            yield slice(start, end)
            start = end


def simulate_sessions(
    world: World, users: Users, rng: np.random.Generator, keep_terms: bool = False
) -> Log:
    """Plays all requests of `users`; rows of the log are by user and time."""
    surfaces = world.surfaces
    time = request_times(rng, users.requests)
    size = len(time)
    first = np.cumsum(users.requests) - users.requests
    surface = np.searchsorted(np.cumsum(surfaces.share), rng.random(size), side="right")
    surface = np.minimum(surface, len(surfaces.names) - 1)
    # The number of candidates: 1 + Binomial(n, extra / n), n = twice the extra ones.
    extra = surfaces.candidates[surface] - 1
    trials = np.ceil(2 * extra).astype(np.int64)
    wanted = 1 + rng.binomial(trials, extra / np.maximum(trials, 1))
    padded = int(wanted.max(initial=1))

    log = Log(
        time=time,
        surface=surface,
        owner=np.repeat(np.arange(len(first)), users.requests),
        query=np.full(size, -1),
        seed=np.full(size, -1),
        shown=np.arange(padded) < wanted[:, None],
        item=np.zeros((size, padded), dtype=np.int64),
        match=np.full((size, padded), np.nan),
        click_p=np.zeros((size, padded)),
        second_p=np.zeros((size, padded)),
        click=np.zeros((size, padded), dtype=np.bool_),
        second=np.zeros((size, padded), dtype=np.bool_),
        terms=np.zeros((size, padded, len(TERMS))) if keep_terms else None,
    )
    # The most active users come first, so that the users of a step are a slice.
    order = np.argsort(-users.requests, kind="stable")
    users, first = users.take(order), first[order]
    recent = Recent(len(first))
    for step in range(int(users.requests.max(initial=0))):
        active = int(np.searchsorted(-users.requests, -step, side="left"))
        _step(world, users, rng, log, recent, first[:active] + step)
    return log


def _step(
    world: World, users: Users, rng: np.random.Generator, log: Log, recent: Recent, row: Ints
) -> None:
    """One request of each of the first `len(row)` users; `row` is its place in the log."""
    surfaces, active = world.surfaces, len(row)
    surface, time = log.surface[row], log.time[row]

    query, seed = _context(world, rng, recent, surface)
    shown = log.shown[row]
    item = _candidates(world, rng, recent, shown, query, seed)
    match = _query_match(world, rng, query, item)
    share = recent.interest(active, time, world.category)
    terms = _terms(world, users, time, query, seed, item, match, share)

    bias, coefficients = surfaces.click_bias[surface], surfaces.click[surface]
    click_p = _sigmoid(bias[:, None] + np.einsum("rpt,rt->rp", terms, coefficients))
    bias, coefficients = surfaces.second_bias[surface], surfaces.second[surface]
    second_p = click_p * _sigmoid(bias[:, None] + np.einsum("rpt,rt->rp", terms, coefficients))
    uniform = rng.random(item.shape)
    # One uniform for both: a second task happens only where there is a click.
    click = (uniform < click_p) & shown
    second = (uniform < second_p) & shown

    log.query[row], log.seed[row], log.item[row], log.match[row] = query, seed, item, match
    log.shown[row] = shown
    log.click_p[row], log.second_p[row] = click_p, second_p
    log.click[row], log.second[row] = click, second
    if log.terms is not None:
        log.terms[row] = terms
    recent.add(click, item, actions(world, surface, second), time)


def actions(world: World, surface: Ints, second: NDArray[np.bool_]) -> Ints:
    """`[R, P]` action of each clicked candidate: 1 + the position in TASKS of the strongest."""
    strongest = 2 + world.surfaces.second_task[surface]
    return np.where(second, strongest[:, None], 1 + TASKS.index("click"))


def _context(
    world: World, rng: np.random.Generator, recent: Recent, surface: Ints
) -> tuple[Ints, Ints]:
    """The query of each search request and the seed item of each related request, else -1."""
    active = len(surface)
    u = rng.random((5, active))
    last = recent.event(active, u[0] * u[0])
    # Two queries in five are about something recently clicked, so are three seeds in five.
    about = np.where((u[1] < 0.4) & (last >= 0), world.category[last], -1)
    query = world.query_choice.draw(u[2], about)
    seed = np.where((u[1] < 0.6) & (last >= 0), last, world.item_choice.draw(u[2], about))
    names = np.array(world.surfaces.names)[surface]
    query = np.where((names == "search") & (u[3] >= NO_QUERY), query, -1)
    return query, np.where((names == "related") & (u[4] >= NO_SEED), seed, -1)


def _candidates(
    world: World,
    rng: np.random.Generator,
    recent: Recent,
    shown: NDArray[np.bool_],
    query: Ints,
    seed: Ints,
) -> Ints:
    """`[A, P]` items to show, all different; a slot left without one is taken out of `shown`."""
    active, padded = shown.shape
    source = rng.random((active, padded))
    context = np.where(
        query >= 0, world.query_category[query], np.where(seed >= 0, world.category[seed], -1)
    )
    event = recent.event(active, rng.random((active,)))
    taste = np.where(event >= 0, world.category[event], -1)
    category = np.where(source < _FROM_CONTEXT, context[:, None], -1)
    category = np.where((category < 0) & (source < _FROM_HISTORY), taste[:, None], category)
    item = world.item_choice.draw(rng.random((active, padded)), category)
    for _ in range(2):
        repeated = _repeated(item, shown)
        item = np.where(repeated, rng.integers(0, len(world.category), item.shape), item)
    shown &= ~_repeated(item, shown)
    return item


def _repeated(item: Ints, shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where an earlier shown slot of the same row has the same item."""
    key = np.where(shown, item, -1 - np.arange(item.shape[1]))
    order = np.argsort(key, axis=1, kind="stable")
    ascending = np.take_along_axis(key, order, axis=1)
    same = np.zeros(item.shape, dtype=np.bool_)
    same[:, 1:] = ascending[:, 1:] == ascending[:, :-1]
    repeated = np.zeros_like(same)
    np.put_along_axis(repeated, order, same, axis=1)
    return repeated


def _query_match(world: World, rng: np.random.Generator, query: Ints, item: Ints) -> Floats:
    """`[A, P]` text match of query and candidate in [0, 1]; NaN without a query."""
    same = world.category[item] == world.query_category[query][:, None]
    match = np.clip(0.3 + 0.35 * same + 0.2 * rng.normal(size=item.shape), 0.0, 1.0)
    # Stored as float32: the truth must follow from the stored value.
    match = match.astype(np.float32).astype(np.float64)
    return np.where(query[:, None] >= 0, match, np.nan)


def _terms(
    world: World,
    users: Users,
    time: Ints,
    query: Ints,
    seed: Ints,
    item: Ints,
    match: Floats,
    share: Floats,
) -> Floats:
    """`[A, P, terms]` the terms of TERMS, in that order."""
    active = len(query)
    category = world.category[item]
    vector = world.item_vector[item]
    recent_share = np.take_along_axis(share, category, axis=1)
    hour = (time / HOUR_MS % 24)[:, None]
    has_query, has_seed = (query >= 0)[:, None], (seed >= 0)[:, None]

    def closeness(other: Ints) -> Floats:
        return np.einsum(
            "rpd,rd->rp", world.category_vector[category], world.category_vector[other]
        )

    values = {
        "appeal": world.appeal[item],
        "affinity": np.einsum("rpd,rd->rp", vector, users.vector[:active]),
        # Saturates: the first few events of a category say most.
        "interest": (recent_share / (recent_share + 0.25) - 0.2) / 0.25,
        "price": world.price_z[item],
        "thrift": world.price_z[item] * users.thrift[:active, None],
        "quality": world.quality_z[item],
        "activity": users.activity[:active, None],
        "match": np.where(
            has_query, (np.nan_to_num(match) - 0.5) / 0.26 * world.query_slope[query][:, None], 0.0
        ),
        "fit": np.where(has_query, closeness(world.query_category[query]) - 0.5, 0.0),
        "similarity": np.where(has_seed, closeness(world.category[seed]) - 0.5, 0.0),
        "hour": np.cos(2 * np.pi * (hour - 21.0) / 24) * 2**0.5 - 0.2,
    }
    terms = np.empty((*item.shape, len(TERMS)))
    for column, name in enumerate(TERMS):
        terms[..., column] = values[name]
    return terms


def _sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))

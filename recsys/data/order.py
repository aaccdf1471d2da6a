"""The order of an epoch: one global order, whatever the number of ranks.

The row groups of a split are put in a seeded order and taken in windows; requests are shuffled
inside a window. A request's place in that order is its global position g, 0 ≤ g < total. Work that
remains is a list of half-open intervals of g, so a position saved by 8 ranks can be taken up by 3.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from recsys.data.hashing import splitmix64

# Half-open intervals [start, stop) of global positions.
Intervals = list[list[int]]


SAMPLING = 0x5A3D1E  # keeps the random numbers of sampling apart from those of the order


def permutation(size: int, *seeds: int) -> np.ndarray:
    """A permutation of range(size), the same for the same seeds on every machine and version."""
    # splitmix64 is one-to-one, so no two keys are equal and the order is unique.
    return np.argsort(_keys(size, *seeds))


def uniform(size: int, *seeds: int) -> np.ndarray:
    """`[size]` random numbers from 0 to 1, the same for the same seeds everywhere."""
    return (_keys(size, *seeds) >> np.uint64(11)) * 2.0**-53


def _keys(size: int, *seeds: int) -> np.ndarray:
    state = np.zeros(1, dtype=np.uint64)
    for seed in seeds:
        state = splitmix64(state ^ np.uint64(seed))
    return splitmix64(state + np.arange(size, dtype=np.uint64))


@dataclass(frozen=True)
class Window:
    """Row groups that are in memory together, and which of their requests to take."""

    row_groups: tuple[int, ...]
    size: int  # requests of all row groups
    inside: Intervals  # those to take, in the order of the window
    seeds: tuple[int, ...] | None  # of that order; None is the order of the files

    def rows(self) -> np.ndarray:
        """The requests to take, in order, as rows of `row_groups` laid end to end."""
        if self.seeds is None:
            return np.concatenate([np.arange(a, b) for a, b in self.inside])
        order = permutation(self.size, *self.seeds)
        return np.concatenate([order[a:b] for a, b in self.inside])

    def drawn(self, rates: np.ndarray) -> np.ndarray:
        """Whether each of `row_groups`' requests laid end to end is kept, if it is to be with
        probability `rates`; `[size]`. The same whatever rows are taken, and by which rank."""
        if self.seeds is None:
            raise ValueError("only a shuffled epoch is sampled")
        kept: np.ndarray = uniform(self.size, *self.seeds, SAMPLING) < rates
        return kept


class Order:
    """The global order of an epoch over row groups of `sizes` requests.

    Without `shuffle` it is the order of the files.
    """

    def __init__(
        self, sizes: Sequence[int], *, seed: int, epoch: int, row_groups: int, shuffle: bool
    ) -> None:
        self.seed = seed
        self.epoch = epoch
        self.shuffle = shuffle
        self.sizes = sizes
        # Unshuffled rows need no company: one row group at a time takes the least memory.
        span = row_groups if shuffle else 1
        groups = permutation(len(sizes), seed, epoch).tolist() if shuffle else range(len(sizes))
        self._windows = [tuple(groups[i : i + span]) for i in range(0, len(sizes), span)]
        ends = accumulate((sum(sizes[g] for g in window) for window in self._windows), initial=0)
        self._bounds = list(ends)

    @property
    def total(self) -> int:
        """The number of requests of an epoch."""
        return self._bounds[-1]

    def windows(self, intervals: Intervals) -> Iterator[Window]:
        """The windows that hold `intervals` (sorted, disjoint), in order."""
        for number, groups in enumerate(self._windows):
            begin, end = self._bounds[number], self._bounds[number + 1]
            inside = [[max(a, begin) - begin, min(b, end) - begin] for a, b in intervals]
            inside = [[a, b] for a, b in inside if a < b]
            if inside:
                seeds = (self.seed, self.epoch, number) if self.shuffle else None
                yield Window(groups, end - begin, inside, seeds)


def size(intervals: Intervals) -> int:
    """The number of requests in `intervals`."""
    return sum(stop - start for start, stop in intervals)


def drop(intervals: Intervals, count: int) -> Intervals:
    """`intervals` without their first `count` requests."""
    ends = list(accumulate(stop - start for start, stop in intervals))
    first = bisect_right(ends, count)
    if first == len(intervals):
        return []
    stop = intervals[first][1]
    return [[stop - (ends[first] - count), stop], *([a, b] for a, b in intervals[first + 1 :])]


def take(intervals: Intervals, start: int, stop: int) -> Intervals:
    """The requests number `start` to `stop` of `intervals`."""
    taken = []
    for a, b in drop(intervals, start):
        length = min(b - a, stop - start)
        if length <= 0:
            break
        taken.append([a, a + length])
        start += length
    return taken


def deal(intervals: Intervals, rank: int, world: int) -> Intervals:
    """The contiguous share of one rank; shares are equal to within one request."""
    merged: Intervals = []
    for start, stop in sorted([int(a), int(b)] for a, b in intervals):
        if merged and start < merged[-1][1]:
            raise ValueError(f"position {start} is in two of the remaining intervals")
        if merged and start == merged[-1][1]:
            merged[-1][1] = stop
        elif start < stop:
            merged.append([start, stop])
    total = size(merged)
    return take(merged, rank * total // world, (rank + 1) * total // world)


def share(remaining: Sequence, rank: int, world: int) -> Intervals:
    """What one rank has left to do.

    `remaining` is a list of intervals, or a list of such lists: one for each rank of the run that
    saved it. With as many ranks now as then each goes on with its own, so that its batches are
    those of an uninterrupted run; otherwise all is dealt anew.
    """
    by_rank = [each for each in remaining if not (len(each) == 2 and isinstance(each[0], int))]
    if by_rank and len(by_rank) == len(remaining) == world:
        return deal(by_rank[rank], 0, 1)
    if by_rank:
        return deal([interval for each in by_rank for interval in each], rank, world)
    return deal(list(remaining), rank, world)

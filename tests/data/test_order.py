"""The global order, its windows, and dealing it to ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.order import Order, deal, drop, permutation, share, size, take

intervals = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), max_size=6).map(
    lambda steps: [
        [sum(a + b for a, b in steps[:i]) + gap, sum(a + b for a, b in steps[:i]) + gap + length]
        for i, (gap, length) in enumerate(steps)
    ]
)


def positions(found: list[list[int]]) -> list[int]:
    return [g for start, stop in found for g in range(start, stop)]


@given(intervals, st.integers(1, 7))
def test_deal_gives_contiguous_shares_of_equal_size(remaining: list, world: int) -> None:
    shares = [positions(deal(remaining, rank, world)) for rank in range(world)]
    assert [g for found in shares for g in found] == positions(remaining)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(intervals, st.integers(0, 60), st.integers(0, 60))
def test_drop_and_take(remaining: list, first: int, second: int) -> None:
    all_positions = positions(remaining)
    assert size(remaining) == len(all_positions)
    assert positions(drop(remaining, first)) == all_positions[first:]
    assert positions(take(remaining, first, second)) == all_positions[first:second]
    assert all(a < b for a, b in [*drop(remaining, first), *take(remaining, first, second)])


def test_deal_refuses_a_position_that_is_given_twice() -> None:
    with pytest.raises(ValueError, match="position 4 is in two"):
        deal([[0, 5], [4, 6]], 0, 1)


def test_deal_joins_intervals_in_any_order() -> None:
    assert deal([[5, 9], [0, 5], [9, 9]], 0, 1) == [[0, 9]]


def test_share_of_the_ranks_that_saved() -> None:
    saved = [[[2, 5]], [], [[8, 9], [10, 12]]]
    assert [share(saved, rank, 3) for rank in range(3)] == saved
    assert [share(saved, rank, 2) for rank in range(2)] == [[[2, 5]], [[8, 9], [10, 12]]]
    assert share([[0, 4]], 1, 2) == [[2, 4]]
    assert share([], 0, 1) == share([[], []], 0, 1) == []


def test_permutation_is_one_and_stays_the_same() -> None:
    found = permutation(1000, 1, 2, 3)
    assert sorted(found.tolist()) == list(range(1000))
    assert not np.array_equal(found, permutation(1000, 1, 2, 4))
    # Checkpoints hold positions in this order: it must never change.
    assert permutation(8, 1, 0).tolist() == PINNED
    assert permutation(0, 1).tolist() == []


PINNED = [3, 5, 2, 4, 1, 0, 6, 7]


def flat(order: Order, remaining: list, sizes: list[int]) -> list[int]:
    """The requests of `remaining`, numbered in the order of the files."""
    found = []
    for window in order.windows(remaining):
        starts = np.cumsum([0, *sizes])
        laid = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in window.row_groups])
        found += laid[window.rows()].tolist()
    return found


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 4),
)
def test_windows_of_all_ranks_cover_every_request_once(
    sizes: list[int], span: int, shuffle: bool, world: int
) -> None:
    order = Order(sizes, seed=1, epoch=0, row_groups=span, shuffle=shuffle)
    total = sum(sizes)
    assert order.total == total
    everything = flat(order, [[0, total]], sizes)
    assert sorted(everything) == list(range(total))
    dealt = [flat(order, deal([[0, total]], rank, world), sizes) for rank in range(world)]
    assert [n for found in dealt for n in found] == everything
    if not shuffle:
        assert everything == list(range(total))
    assert all(len(window.row_groups) <= span for window in order.windows([[0, total]]))


def test_shuffles_row_groups_and_inside_windows_only() -> None:
    sizes = [10] * 20
    order = Order(sizes, seed=1, epoch=0, row_groups=4, shuffle=True)
    found = flat(order, [[0, 200]], sizes)
    windows = [sorted({n // 10 for n in found[i : i + 40]}) for i in range(0, 200, 40)]
    assert all(len(groups) == 4 for groups in windows)
    assert any(groups[-1] - groups[0] > 3 for groups in windows)
    mixed = {n // 10 for n in found[:10]}
    assert len(mixed) > 1

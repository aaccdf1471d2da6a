"""What measurements say."""

import numpy as np
import pytest

from recsys.sharding.tune.compare import rank_correlation, speed_up


def rounds(seed: int, count: int, ratio: float, noise: float) -> tuple[list[float], list[float]]:
    """A default plan and one that is `ratio` times as fast, on a machine that others slow down."""
    draw = np.random.default_rng(seed)
    load = np.exp(draw.normal(0, 0.5, count))
    first = load * np.exp(draw.normal(0, noise, count))
    second = load * np.exp(draw.normal(0, noise, count)) / ratio
    return first.tolist(), second.tolist()


def test_a_difference_is_seen_although_the_machine_is_uneven() -> None:
    found = speed_up(*rounds(0, 9, 1.2, 0.02))
    assert found.verdict == "faster"
    assert found.ratio == pytest.approx(1.2, rel=0.03)
    assert speed_up(*rounds(0, 9, 0.8, 0.02)).verdict == "slower"


@pytest.mark.parametrize("count", [7, 21])
def test_the_interval_holds_the_truth(count: int) -> None:
    """95 of 100 times, also for few rounds; so equal plans are seldom told apart."""
    found = [speed_up(*rounds(seed, count, 1.1, 0.1)) for seed in range(200)]
    assert 0.91 * 200 < sum(each.low < 1.1 < each.high for each in found) < 0.99 * 200
    equal = [speed_up(*rounds(seed, count, 1.0, 0.1)).verdict for seed in range(200)]
    assert equal.count("no difference") > 0.91 * 200


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]).value == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [40, 30, 20, 10]).value == pytest.approx(-1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]).value is None

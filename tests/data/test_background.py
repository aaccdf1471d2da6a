"""Threads that work ahead."""

import threading
import time
from collections.abc import Iterator

import pytest

from recsys.data.background import Background


def test_order_and_end() -> None:
    with Background(iter(range(100)), 3, "test") as numbers:
        assert list(numbers) == list(range(100))
        assert list(numbers) == []


def test_is_ahead_by_as_many_as_asked() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with Background(source(), 2, "test") as numbers:
        assert next(numbers) == 0
        time.sleep(0.1)
        assert made == [0, 1, 2]


def test_an_error_comes_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("here")

    with Background(source(), 5, "test") as numbers:
        assert next(numbers) == 1
        with pytest.raises(KeyError, match="here"):
            next(numbers)
        assert list(numbers) == []


def test_close_ends_the_thread_and_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    numbers = Background(source(), 2, "test-close")
    next(numbers)
    numbers.close()
    assert closed.is_set()
    assert not [t for t in threading.enumerate() if t.name == "test-close"]
    assert list(numbers) == []
    numbers.close()


def test_close_before_the_start() -> None:
    numbers = Background(iter([1]), 1, "test")
    numbers.close()
    assert list(numbers) == []

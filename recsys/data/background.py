"""Work ahead of the consumer in a thread."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Background(Generic[Item]):
    """Iterates over `source` in a thread, at most `ahead` finished or half-finished items ahead.

    An exception of the source is raised by `next`. `close` stops the thread and closes the source;
    use it as a context manager. The thread is started by the first `next`.
    """

    def __init__(self, source: Iterable[Item], ahead: int, name: str) -> None:
        self._source = source
        self._state = threading.Condition()
        self._ready: deque[Item] = deque()
        self._room = ahead
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._thread.ident is None and not self._closed:
            self._thread.start()
        with self._state:
            self._state.wait_for(lambda: self._ready or self._finished or self._closed)
            if self._ready and not self._closed:
                self._room += 1
                self._state.notify_all()
                return self._ready.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stops the thread and waits for it."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._ready.clear()

    def __enter__(self) -> "Background[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        source = iter(self._source)
        try:
            # Room is taken before an item is made, so that memory is bounded by `ahead`.
            while self._take_room():
                try:
                    item = next(source)
                except StopIteration:
                    break
                with self._state:
                    self._ready.append(item)
                    self._state.notify_all()
                del item
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            with self._state:
                self._finished = True
                self._state.notify_all()

    def _take_room(self) -> bool:
        with self._state:
            self._state.wait_for(lambda: self._room > 0 or self._closed)
            self._room -= 1
            return not self._closed

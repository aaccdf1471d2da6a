"""Work ahead of the consumer in a thread."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Background(Generic[Item]):
    """Iterates over `source` in a thread, at most `ahead` finished or half-finished items ahead.

    An exception of the source is raised by `next`. `close` stops the thread and closes the source;
    use it as a context manager. The thread is started by the first `next`.
    """

    def __init__(self, source: Iterable[Item], ahead: int, name: str) -> None:
        self._source = source
        # Room is taken before an item is made, so that memory is bounded by `ahead`.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(ahead):
            self._room.put(None)
        # (True, an item), and at the end (False, what was raised or None).
        self._ready: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        self._over = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._over:
            raise StopIteration
        if self._thread.ident is None:
            self._thread.start()
        more, found = self._ready.get()
        if more and not self._over:
            self._room.put(None)
            return found
        closed, self._over = self._over, True
        if found is None or closed:
            raise StopIteration
        raise found

    def close(self) -> None:
        """Stops the thread and waits for it."""
        self._over = True
        self._room.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        while not self._ready.empty():
            self._ready.get()
        self._ready.put((False, None))  # for a consumer that waits in another thread

    def __enter__(self) -> "Background[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        source, error = iter(self._source), None
        try:
            self._room.get()
            while not self._over:
                try:
                    item = next(source)
                except StopIteration:
                    break
                self._ready.put((True, item))
                del item
                self._room.get()
        except BaseException as raised:
            error = raised
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            self._ready.put((False, error))

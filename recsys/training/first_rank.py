"""Long work of the first rank alone: the others wait for it as long as it lives."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from recsys.errors import RankError

BEAT_SECONDS = 1.0


class FirstRank:
    """What the first rank tells the others through the store while it works.

    In a collective they would give up after `training.timeout_seconds`, and what only one rank does
    – fit the statistics, check a checkpoint – takes as long as the data is large. So the first rank
    gives a sign of life every second, and only silence for so long ends the wait. A store that died
    with the first rank ends it at once.
    """

    def __init__(self, rank: int, store: dist.Store, timeout_seconds: int) -> None:
        self.rank = rank
        self.store = store
        self.timeout_seconds = timeout_seconds
        self._turns = 0

    @contextmanager
    def works(self) -> Iterator[None]:
        """A block that the other ranks leave once the first one has (collective)."""
        self._turns += 1
        beats, done = f"first/{self._turns}/beats", f"first/{self._turns}/done"
        if self.rank:
            yield
            self._wait(beats, done)
            return
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(beats, ended), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            self.store.set(done, "")

    def _beat(self, beats: str, ended: threading.Event) -> None:
        with suppress(dist.DistError):  # met by the first rank itself, once it is done
            while not ended.wait(BEAT_SECONDS):
                self.store.add(beats, 1)

    def _wait(self, beats: str, done: str) -> None:
        began = heard = time.monotonic()
        known = 0
        # Asked again and again: `Store.wait` prints two lines each time it gives up.
        while not self.store.check([done]):
            now = time.monotonic()
            if (found := self.store.add(beats, 0)) != known:
                known, heard = found, now
            elif now - heard > self.timeout_seconds:
                raise RankError(
                    f"rank {self.rank}: rank 0, which works alone, was silent for "
                    f"training.timeout_seconds ({self.timeout_seconds}); its own log says why; go "
                    "on with --resume"
                )
            time.sleep(min(0.5, 0.01 + (now - began) / 10))

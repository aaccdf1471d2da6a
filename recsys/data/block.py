"""Encoded requests as flat numpy columns, and the selection of any of them in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from recsys.config.features import Level
from recsys.data.gather import Gather, Ragged

LEVELS: tuple[Level, ...] = ("request", "candidate", "history")


@dataclass
class Block:
    """R encoded requests with C candidates and H history events.

    `ids` has the embedding rows of each id feature by its key, `[R]`, `[C]` or `[H]`, in the
    narrowest integers that hold its table: less memory is less to wait for. For a multi-valued
    feature it has those of all its ids, whose number for each request or candidate is in `inner`.
    Numbers are NaN where null.
    """

    surface: np.ndarray  # [R] int64, position in the configuration's surfaces
    candidate_lengths: np.ndarray  # [R] int64
    history_lengths: np.ndarray  # [R] int64
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    inner: dict[str, np.ndarray] = field(default_factory=dict)  # int64
    numbers: dict[Level, np.ndarray] = field(default_factory=dict)  # [R | C | H, fields] float32
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # [C, T]
    request_extras: pa.Table | None = None
    candidate_extras: pa.Table | None = None
    # [R], places in the global order that a request stands for: its own, and those before it that
    # were left out. None: 1 each.
    places: np.ndarray | None = None

    @property
    def requests(self) -> int:
        return len(self.surface)

    @property
    def passed(self) -> int:
        """Places in the global order of all requests."""
        return self.requests if self.places is None else int(self.places.sum())

    @cached_property
    def candidate_offsets(self) -> np.ndarray:
        """`[R + 1]`: request r has the candidates from offsets[r] to offsets[r + 1]."""
        return _offsets(self.candidate_lengths)

    @cached_property
    def _ragged(self) -> dict[str, Ragged]:
        """Where a request's values are, by level, and by key for multi-valued features."""
        candidates = self.candidate_offsets
        found = {
            "candidate": Ragged(candidates),
            "history": Ragged(_offsets(self.history_lengths)),
        }
        for key, lengths in self.inner.items():
            offsets = _offsets(lengths)
            of_candidate = key.startswith("candidate.")
            found[key] = Ragged(offsets.take(candidates) if of_candidate else offsets)
        return found

    def select(self, rows: np.ndarray) -> "Block":
        """The requests `rows`, in that order, as a copy."""
        take_candidates = Gather(self._ragged["candidate"], rows)
        take: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "request": lambda values: values.take(rows, axis=0),
            "candidate": take_candidates,
            "history": Gather(self._ragged["history"], rows),
        }
        ids, inner = {}, {}
        for key, values in self.ids.items():
            level = key.partition(".")[0]
            if key in self.inner:
                inner[key] = take[level](self.inner[key])
                ids[key] = Gather(self._ragged[key], rows)(values)
            else:
                ids[key] = take[level](values)
        extras = self.candidate_extras  # the index is made for these, or for short lists
        extras = None if extras is None else _take(extras, take_candidates.index)
        return Block(
            surface=self.surface.take(rows),
            candidate_lengths=self.candidate_lengths.take(rows),
            history_lengths=self.history_lengths.take(rows),
            ids=ids,
            inner=inner,
            numbers={level: take[level](values) for level, values in self.numbers.items()},
            labels=take_candidates(self.labels),
            request_extras=_take(self.request_extras, rows),
            candidate_extras=extras,
            places=None if self.places is None else self.places.take(rows),
        )

    def slice(self, start: int, stop: int) -> "Block":
        """The requests from `start` to `stop`, as views."""
        offsets = {level: self._ragged[level].offsets for level in ("candidate", "history")}
        bounds = {level: slice(*o[[start, stop]].tolist()) for level, o in offsets.items()}
        bounds["request"] = slice(start, stop)
        ids, inner = {}, {}
        for key, values in self.ids.items():
            where = bounds[key.partition(".")[0]]
            if key in self.inner:
                inner[key] = self.inner[key][where]
                where = slice(*self._ragged[key].offsets[[start, stop]].tolist())
            ids[key] = values[where]
        return Block(
            surface=self.surface[start:stop],
            candidate_lengths=self.candidate_lengths[start:stop],
            history_lengths=self.history_lengths[start:stop],
            ids=ids,
            inner=inner,
            numbers={level: x[bounds[level]] for level, x in self.numbers.items()},
            labels=self.labels[bounds["candidate"]],
            request_extras=_slice(self.request_extras, bounds["request"]),
            candidate_extras=_slice(self.candidate_extras, bounds["candidate"]),
            places=None if self.places is None else self.places[start:stop],
        )


def concatenate(blocks: Sequence[Block]) -> Block:
    """The requests of several blocks, one block after the other."""
    if len(blocks) == 1:
        return blocks[0]
    first = blocks[0]
    join = np.concatenate
    return Block(
        surface=join([b.surface for b in blocks]),
        candidate_lengths=join([b.candidate_lengths for b in blocks]),
        history_lengths=join([b.history_lengths for b in blocks]),
        ids={key: join([b.ids[key] for b in blocks]) for key in first.ids},
        inner={key: join([b.inner[key] for b in blocks]) for key in first.inner},
        numbers={level: join([b.numbers[level] for b in blocks]) for level in first.numbers},
        labels=join([b.labels for b in blocks]),
        request_extras=_join([b.request_extras for b in blocks]),
        candidate_extras=_join([b.candidate_extras for b in blocks]),
        places=None if first.places is None else join([b.places for b in blocks]),
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _take(table: pa.Table | None, rows: np.ndarray) -> pa.Table | None:
    return None if table is None else table.take(pa.array(rows))


def _slice(table: pa.Table | None, where: slice) -> pa.Table | None:
    return None if table is None else table.slice(where.start, where.stop - where.start)


def _join(tables: list[pa.Table | None]) -> pa.Table | None:
    return None if tables[0] is None else pa.concat_tables(tables, promote_options="permissive")

"""Encoded requests as flat numpy records, and the selection of any of them in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from recsys.config.features import Level
from recsys.data.gather import Gather, Ragged
from recsys.data.layout import IdColumn, Layout
from recsys.data.lookup import narrowest

LEVELS: tuple[Level, ...] = ("request", "candidate", "history")


def record_types(layout: Layout) -> dict[Level, np.dtype]:
    """The ids of one request, one candidate and one event.

    Fields are named by the keys of the id features. Such a field is the row in the embedding table,
    in the narrowest integers that hold the table (less memory is less to wait for), or for a
    multi-valued feature the number of its ids, which are in `Block.bags`. A request also has its
    `surface` (the position in the configuration's surfaces) and its numbers of `candidates` and
    `events`.
    """
    tables = layout.config.tables
    types = {}
    for level in LEVELS:
        fields: list[tuple] = []
        if level == "request":
            fields += [(name, np.int64) for name in ("surface", "candidates", "events")]
        for column in (column for column in layout.ids if column.level == level):
            rows = narrowest(tables[column.feature.id].rows)
            fields.append((column.key, np.int32 if column.multi_valued else rows))
        # Widest first: then all are aligned, which numpy is faster with, and none is padded.
        fields.sort(key=lambda each: -np.dtype(each[1]).itemsize)
        types[level] = np.dtype(fields, align=True)
    return types


@dataclass
class Block:
    """R encoded requests with C candidates and H history events.

    `records` has the ids of each level, `[R]`, `[C]` and `[H]`, of the types of `record_types`:
    they are taken by one copy a request, however many features. `bags` has the rows of all ids
    of each multi-valued feature. Numbers and labels are NaN where null.
    """

    records: dict[Level, np.ndarray]
    numbers: dict[Level, np.ndarray]  # [R | C | H, fields] float32
    labels: np.ndarray  # [C, T] float32
    bags: dict[str, np.ndarray] = field(default_factory=dict)
    request_extras: pa.Table | None = None
    candidate_extras: pa.Table | None = None
    # [R], places in the global order that a request stands for: its own, and those before it that
    # were left out. None: 1 each.
    places: np.ndarray | None = None

    @property
    def requests(self) -> int:
        return len(self.records["request"])

    @property
    def nbytes(self) -> int:
        """Size in memory, without extra columns."""
        values = (*self.records.values(), *self.numbers.values(), *self.bags.values(), self.labels)
        return sum(each.nbytes for each in values)

    @cached_property
    def surface(self) -> np.ndarray:
        """`[R]` int64, position in the configuration's surfaces."""
        return self.records["request"]["surface"].copy()

    @cached_property
    def candidate_lengths(self) -> np.ndarray:
        """`[R]` int64."""
        return self.records["request"]["candidates"].copy()

    @cached_property
    def history_lengths(self) -> np.ndarray:
        """`[R]` int64."""
        return self.records["request"]["events"].copy()

    @cached_property
    def offsets(self) -> dict[str, np.ndarray]:
        """`[R + 1]` each: request r has the values from offsets[r] to offsets[r + 1], of a level,
        or of a multi-valued feature by its key."""
        found = {
            "request": np.arange(self.requests + 1),
            "candidate": _offsets(self.candidate_lengths),
            "history": _offsets(self.history_lengths),
        }
        for key in self.bags:
            level: Level = "request" if key.startswith("request.") else "candidate"
            found[key] = _offsets(self.records[level][key]).take(found[level])
        return found

    def values(self, column: IdColumn) -> np.ndarray:
        """The embedding rows of a feature, one request after the other."""
        rows = self.bags if column.multi_valued else self.records[column.level]
        return rows[column.key]

    def ends(self, column: IdColumn) -> np.ndarray:
        """`[R + 1]`: where in `values` those of each request begin; the last is where all end."""
        return self.offsets[column.key if column.multi_valued else column.level]

    @cached_property
    def _ragged(self) -> dict[str, Ragged]:
        return {key: Ragged(offsets) for key, offsets in self.offsets.items()}

    def select(self, rows: np.ndarray) -> "Block":
        """The requests `rows`, in that order, as a copy."""
        candidates = Gather(self._ragged["candidate"], rows)
        take: dict[Level, Callable[[np.ndarray], np.ndarray]] = {
            "request": lambda values: values.take(rows, axis=0),
            "candidate": candidates,
            "history": Gather(self._ragged["history"], rows),
        }
        extras = self.candidate_extras
        return Block(
            records={level: take[level](values) for level, values in self.records.items()},
            numbers={level: take[level](values) for level, values in self.numbers.items()},
            labels=candidates(self.labels),
            bags={key: Gather(self._ragged[key], rows)(ids) for key, ids in self.bags.items()},
            request_extras=_take(self.request_extras, rows),
            candidate_extras=None if extras is None else _take(extras, candidates.index),
            places=None if self.places is None else self.places.take(rows),
        )


def concatenate(blocks: Sequence[Block]) -> Block:
    """The requests of several blocks, one block after the other."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        records={level: np.concatenate([b.records[level] for b in blocks]) for level in LEVELS},
        numbers={level: np.concatenate([b.numbers[level] for b in blocks]) for level in LEVELS},
        labels=np.concatenate([b.labels for b in blocks]),
        bags={key: np.concatenate([b.bags[key] for b in blocks]) for key in blocks[0].bags},
        request_extras=join_extras([b.request_extras for b in blocks]),
        candidate_extras=join_extras([b.candidate_extras for b in blocks]),
        places=None if blocks[0].places is None else np.concatenate([b.places for b in blocks]),
    )


def join_extras(tables: list[pa.Table | None]) -> pa.Table | None:
    """Extra columns of several blocks; an id may be of different integers in different files."""
    return None if tables[0] is None else pa.concat_tables(tables, promote_options="permissive")


def _offsets(lengths: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _take(table: pa.Table | None, rows: np.ndarray) -> pa.Table | None:
    return None if table is None else table.take(pa.array(rows))

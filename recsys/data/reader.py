"""A split of the request table → batches, for one rank of a run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, cycle

import numpy as np
import pyarrow as pa

from recsys.config import Config
from recsys.data import order
from recsys.data.assemble import Assembler, empty_batch
from recsys.data.background import Background
from recsys.data.batch import Batch
from recsys.data.block import Block
from recsys.data.columns import flatten
from recsys.data.cut import cut
from recsys.data.encode import BlockBuilder
from recsys.data.encoding import table_encoders
from recsys.data.faults import UnknownIds, UnseenSurfaces
from recsys.data.layout import Layout
from recsys.data.rowgroups import SHUFFLED_FILES, RowGroups
from recsys.data.schema import check_split, projection
from recsys.data.splits import Split, open_split
from recsys.data.statistics import Statistics
from recsys.errors import UserError

__all__ = ["Reader", "empty_batch"]

# Bytes of requests that are taken from a window at once: many batches share the calls, and
# little memory is in use twice.
TOGETHER = 16 * 2**20


class Reader:
    """Iterates over one rank's share of an epoch as `Batch`es.

    A batch takes as many successive requests as fit in `batch_candidates` candidates, and at least
    one; a request without candidates counts as one. Where batches are cut depends on neither files
    nor windows, so a reader that goes on from a `batch.position` yields what the first one would.

    Args:
        config: the experiment; `config.training.seed` seeds the order.
        split: `train`, `valid` or `test`, or files listed by `open_table`.
        statistics: fitted on the train split; may be None if no table has `encode: vocab`.
        rank, world: this rank, of how many.
        shuffle: by windows of `data.shuffle_row_groups` row groups; else the order of the files.
        sample: leave out requests by `surfaces.S.request_sampling`; needs `shuffle`.
        epoch: each has its own order.
        remaining: what is left of the epoch – a list of [start, stop] to be dealt to the ranks,
            or one such list for each rank that saved it (`batch.position`). Default: all of it.
        batch_candidates: most candidates of a batch.
        predictions: adds `batch.columns`: request_id, time, candidate (its position in the
            request), `evaluation.group` and `evaluation.keep`, one row a candidate.
        labels: False reads no labels, which need not exist then; all are unknown.
        pin_memory: of the batches, for copies to a GPU that overlap with compute.
        unknown: counts the ids that no table knows; they are then no faults, as in serving.
        unseen: counts the requests of surfaces that the configuration does not have; they are then
            read as those of `data.fallback`, if there is one.

    Raises `UserError` here for files and schemas, and while iterating for values. Three threads
    work ahead while iterating: one decodes the next row group, one encodes the next
    window, one makes `data.prefetch_batches` batches. They end with the iterator, or with `close`;
    the reader is a context manager. In memory are two windows and a row group, whatever the data.
    """

    def __init__(
        self,
        config: Config,
        split: str | Split,
        statistics: Statistics | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        sample: bool = False,
        epoch: int = 0,
        remaining: Sequence | None = None,
        batch_candidates: int,
        predictions: bool = False,
        labels: bool = True,
        pin_memory: bool = False,
        unknown: UnknownIds | None = None,
        unseen: UnseenSurfaces | None = None,
    ) -> None:
        self.layout = Layout(config)
        self.split = open_split(config, split) if isinstance(split, str) else split
        self.batch_candidates = batch_candidates
        self._prefetch = config.data.prefetch_batches
        self._pin_memory = pin_memory
        self._unknown = unknown
        self._unseen = unseen
        chosen = projection(self.layout, self.split, predictions=predictions, labels=labels)
        kinds = check_split(self.split, chosen)
        vocabularies = statistics.vocabularies if statistics else {}
        self._chosen = chosen
        self._tables = table_encoders(self.layout, vocabularies, kinds)
        self._order = order.Order(
            [group.requests for group in self.split.row_groups],
            seed=config.training.seed,
            epoch=epoch,
            row_groups=config.data.shuffle_row_groups,
            shuffle=shuffle,
        )
        self._open_files = SHUFFLED_FILES if shuffle else 1
        everything = [[0, self._order.total]]
        self._remaining = order.share(everything if remaining is None else remaining, rank, world)
        last = self._remaining[-1][1] if self._remaining else 0
        if last > self._order.total:
            raise UserError(
                f"{self.split.url}: has {self._order.total} requests, but the saved position goes "
                f"to {last}; resume with the files that the run began with"
            )
        rates = np.array([each.request_sampling for each in config.active_surfaces.values()])
        self._rates = rates if sample and (rates < 1).any() else None
        self._open = ExitStack()

    @property
    def requests(self) -> int:
        """The number of requests that this rank reads, with those that sampling leaves out."""
        return order.size(self._remaining)

    @property
    def candidates(self) -> int:
        """About how many candidates this rank reads: its part of the split's, for progress bars."""
        return round(self.split.candidates * self.requests / max(self.split.requests, 1))

    def __iter__(self) -> Iterator[Batch]:
        with Background(self._batches(), self._prefetch, "recsys-batches") as batches:
            self._open.callback(batches.close)
            yield from batches

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads of every iterator of this reader."""
        self._open.close()

    def _windows(self) -> Iterator[tuple[Block, np.ndarray]]:
        """Encoded windows, with the rows to take of each, in order."""
        # The memory of a window is used again once the window after it is being dealt to batches.
        builders = cycle([BlockBuilder(self.layout, self._tables) for _ in range(2)])
        windows = list(self._order.windows(self._remaining))
        numbers = [number for window in windows for number in window.row_groups]
        before = 0
        with (
            RowGroups(
                self.split, self._chosen, self._unknown, self._unseen, self._open_files
            ) as source,
            Background(map(source.table, numbers), 1, "recsys-row-groups") as tables,
        ):
            for window, builder in zip(windows, builders, strict=False):
                builder.begin(window.size)
                for number in window.row_groups:
                    place = source.place(number)
                    builder.add(flatten(next(tables), self._chosen, place), place)
                # Arrow's allocator keeps what is freed, and the more of it the longer an epoch is.
                pa.default_memory_pool().release_unused()
                block, rows = builder.block(), window.rows()
                if self._rates is not None:
                    rows, before = _sampled(
                        block, rows, window.drawn(self._rates[block.surface]), before
                    )
                yield block, rows

    def _batches(self) -> Iterator[Batch]:
        left, assemble = self._remaining, Assembler(self.layout)
        blocks = cut(self._windows(), self.batch_candidates)
        with Background(blocks, 1, "recsys-windows") as windows:
            for block, batches in windows:
                taken = sum(map(len, batches)) * block.nbytes / max(block.requests, 1)
                together = max(int(TOGETHER * len(batches) / max(taken, 1)), 1)
                for first in range(0, len(batches), together):
                    group = batches[first : first + together]
                    selected = block.select(np.concatenate(group))
                    bounds = list(accumulate(map(len, group), initial=0))
                    for batch in assemble(selected, bounds):
                        left = order.drop(left, batch.passed)
                        batch.position = left
                        yield batch.pin_memory() if self._pin_memory else batch
                del block


def _sampled(
    block: Block, rows: np.ndarray, kept: np.ndarray, before: int
) -> tuple[np.ndarray, int]:
    """The rows to take that are kept; sets `block.places`.

    What is left out counts to the next row that is not, so that the position after a batch is the
    same place in the global order, whatever was left out. `before` were left out since the last row
    of the window before. Also returns how many were since the last one here.
    """
    at = np.flatnonzero(kept[rows])
    gaps = np.diff(at, prepend=-1 - before)
    block.places = np.ones(block.requests, dtype=np.int64)
    block.places[rows[at]] = gaps
    return rows[at], len(rows) - 1 - at[-1] if len(at) else before + len(rows)

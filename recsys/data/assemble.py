"""Encoded requests → batches."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.config.features import Level
from recsys.data.batch import Batch
from recsys.data.block import LEVELS, Block, record_types
from recsys.data.columns import ragged_index
from recsys.data.layout import CANDIDATE_BAGS, IdColumn, Layout, is_sequences


class Assembler:
    """Makes batches of one layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._collections = {name: layout.ids_of(name) for name in layout.collections}
        # Multi-valued features that are read as sequences.
        self._bags = [
            column
            for name, columns in self._collections.items()
            for column in columns
            if is_sequences(name) and column.multi_valued
        ]

    def __call__(self, block: Block, bounds: Sequence[int]) -> Iterator[Batch]:
        """The batches of the requests from each of `bounds` to the next, from 0 to R.

        Each is to be sorted by surface. What can be is worked out for all of them at once; batches
        are views of that and of `block`.
        """
        cuts = {level: block.offsets[level].take(bounds) for level in LEVELS}
        sizes = {level: np.diff(each).tolist() for level, each in cuts.items()}

        def split(array: np.ndarray, level: Level) -> Sequence[Tensor]:
            # Lists that Arrow took are read-only.
            array = array if array.flags.writeable else array.copy()
            return torch.from_numpy(array).split(sizes[level])

        numbers = {level: split(block.numbers[level], level) for level in LEVELS}
        number = np.arange(block.requests)  # of each request, in its batch
        number -= np.repeat(bounds[:-1], sizes["request"])
        request_index = np.repeat(number, block.candidate_lengths)
        request_indices = split(request_index, "candidate")
        history_lengths = split(block.history_lengths, "request")
        candidate_lengths = split(block.candidate_lengths, "request")
        surfaces = split(block.surface, "request")
        surface_indices = split(np.repeat(block.surface, block.candidate_lengths), "candidate")
        labels = split(block.labels, "candidate")
        bag_lengths = {
            column.key: split(
                block.records[column.level][column.key].astype(np.int64), column.level
            )
            for column in self._bags
        }
        request_offsets, candidate_offsets = self._offsets(block, bounds)
        longest, most = (
            np.maximum.reduceat(np.append(lengths, 0), bounds[:-1]).tolist()
            for lengths in (block.history_lengths, block.candidate_lengths)
        )
        passed = sizes["request"]
        if block.places is not None:
            passed = np.add.reduceat(np.append(block.places, 0), bounds[:-1]).tolist()
        sparse = zip(*(self._jagged(name, block, cuts) for name in self._collections), strict=True)
        extras = _extras(block)
        for i, jagged in enumerate(sparse):
            yield Batch(
                sparse=dict(zip(self._collections, jagged, strict=True)),
                bag_lengths={key: lengths[i] for key, lengths in bag_lengths.items()},
                request_numbers=numbers["request"][i],
                candidate_numbers=numbers["candidate"][i],
                history_numbers=numbers["history"][i],
                history_lengths=history_lengths[i],
                candidate_lengths=candidate_lengths[i],
                request_index=request_indices[i],
                request_surface_index=surfaces[i],
                surface_index=surface_indices[i],
                labels=labels[i],
                request_offsets=tuple(request_offsets[i]),
                candidate_offsets=tuple(candidate_offsets[i]),
                longest_history=longest[i],
                most_candidates=most[i],
                passed=passed[i],
                columns=None
                if extras is None
                else extras.slice(int(cuts["candidate"][i]), sizes["candidate"][i]),
            )

    def _offsets(self, block: Block, bounds: Sequence[int]) -> tuple[list, list]:
        """`request_offsets` and `candidate_offsets` of each batch."""
        # Batch by batch and surface by surface inside, this number goes up.
        count = len(self.layout.surfaces)
        batch = np.arange(len(bounds) - 1)
        place = np.repeat(batch * count, np.diff(bounds)) + block.surface
        requests = np.searchsorted(place, batch[:, None] * count + np.arange(count + 1))
        candidates = block.offsets["candidate"].take(requests)
        return (requests - requests[:, :1]).tolist(), (candidates - candidates[:, :1]).tolist()

    def _jagged(
        self, name: str, block: Block, cuts: dict[Level, np.ndarray]
    ) -> Iterator[KeyedJaggedTensor]:
        """The features of one collection, batch by batch."""
        columns = self._collections[name]
        keys = [column.key for column in columns]
        values = [block.values(column) for column in columns]
        ends = np.stack([block.ends(column).take(cuts["request"]) for column in columns], axis=1)
        per_key = np.diff(ends, axis=0)  # [batches, features]
        # On a GPU, torchrec would have to wait for the device to work these out.
        offset_per_key = np.zeros((len(per_key), len(columns) + 1), np.int64)
        np.cumsum(per_key, axis=1, out=offset_per_key[:, 1:])
        lengths = self._lengths(name, columns, block)
        runs = cuts["candidate" if name == CANDIDATE_BAGS else "request"].tolist()
        known = pairwise(runs), pairwise(ends.tolist()), per_key.tolist(), offset_per_key.tolist()
        for (start, stop), (first, last), per, offsets in zip(*known, strict=True):
            parts = [each[a:b] for each, a, b in zip(values, first, last, strict=True)]
            own = lengths[:, start:stop].reshape(-1)
            if start == stop:  # torchrec's sharded collections refuse a stride of 0
                own = np.zeros(len(columns), np.int64)  # one empty run stands for none
            yield KeyedJaggedTensor(
                keys=keys,
                values=torch.from_numpy(np.concatenate(parts, dtype=np.int64)),
                lengths=torch.from_numpy(own),
                stride=max(stop - start, 1),
                length_per_key=per,
                offset_per_key=offsets,
            )

    def _lengths(self, name: str, columns: tuple[IdColumn, ...], block: Block) -> np.ndarray:
        """`[features, runs]`: how many ids of each feature a request, or a candidate, has."""
        if name != CANDIDATE_BAGS:
            return np.diff([block.ends(column) for column in columns])
        candidates = block.records["candidate"]
        lengths = np.ones((len(columns), len(candidates)), np.int64)
        for row, column in zip(lengths, columns, strict=True):
            if column.multi_valued:
                row[:] = candidates[column.key]
        return lengths


def empty_batch(layout: Layout) -> Batch:
    """A batch without requests, for a rank whose share is used up."""
    records = {level: np.zeros(0, kind) for level, kind in record_types(layout).items()}
    none = np.zeros(0, np.int64)
    bags = {column.key: none for column in layout.ids if column.multi_valued}
    numbers = {level: np.zeros((0, len(layout.numbers_of(level))), np.float32) for level in LEVELS}
    labels = np.zeros((0, len(layout.tasks)), np.float32)
    [batch] = Assembler(layout)(Block(records, numbers, labels, bags), [0, 0])
    batch.position = []
    return batch


def _extras(block: Block) -> pa.Table | None:
    """One row a candidate: its position in the request, then the extra columns."""
    if block.request_extras is None or block.candidate_extras is None:
        return None
    request = np.repeat(np.arange(block.requests), block.candidate_lengths)
    position = ragged_index(np.zeros(block.requests, np.int64), block.candidate_lengths)
    table = block.request_extras.take(pa.array(request))
    table = table.append_column("candidate", pa.array(position, pa.int32()))
    for name in block.candidate_extras.column_names:
        table = table.append_column(name, block.candidate_extras.column(name))
    return table

"""Encoded requests → a `Batch`."""

from itertools import accumulate

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.data.block import LEVELS, Block
from recsys.data.columns import ragged_index
from recsys.data.layout import CANDIDATE_BAGS, IdColumn, Layout, is_sequences


class Assembler:
    """Makes batches of one layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._surfaces = np.arange(len(layout.surfaces) + 1)
        self._collections = {name: layout.ids_of(name) for name in layout.collections}
        # Multi-valued features that are read as sequences.
        self._bags = [
            column.key
            for name, columns in self._collections.items()
            for column in columns
            if is_sequences(name) and column.multi_valued
        ]

    def __call__(self, block: Block) -> Batch:
        """A batch of all requests of `block`, sorted by surface; may share its memory."""
        request_index = np.repeat(np.arange(block.requests), block.candidate_lengths)
        request_offsets = np.searchsorted(block.surface, self._surfaces)
        numbers = [_tensor(block.numbers[level]) for level in LEVELS]
        return Batch(
            sparse={
                name: self._jagged(name, columns, block, request_index)
                for name, columns in self._collections.items()
            },
            bag_lengths={key: _tensor(block.inner[key]) for key in self._bags},
            request_numbers=numbers[0],
            candidate_numbers=numbers[1],
            history_numbers=numbers[2],
            history_lengths=_tensor(block.history_lengths),
            candidate_lengths=_tensor(block.candidate_lengths),
            request_index=torch.from_numpy(request_index),
            request_surface_index=_tensor(block.surface),
            surface_index=torch.from_numpy(block.surface.take(request_index)),
            labels=_tensor(block.labels),
            request_offsets=tuple(request_offsets.tolist()),
            candidate_offsets=tuple(block.candidate_offsets[request_offsets].tolist()),
            longest_history=int(block.history_lengths.max(initial=0)),
            most_candidates=int(block.candidate_lengths.max(initial=0)),
            passed=block.passed,
            columns=_extras(block, request_index),
        )

    def _jagged(
        self, name: str, columns: tuple[IdColumn, ...], block: Block, request_index: np.ndarray
    ) -> KeyedJaggedTensor:
        """The features of one collection."""
        stride = len(request_index) if name == CANDIDATE_BAGS else block.requests
        lengths = np.ones((len(columns), stride), dtype=np.int64)
        for row, column in zip(lengths, columns, strict=True):
            if column.level == "history":
                row[:] = block.history_lengths
            elif column.level == "candidate" and name != CANDIDATE_BAGS:
                row[:] = block.candidate_lengths
                if column.multi_valued:  # all ids of all candidates of the request
                    inner = block.inner[column.key]
                    row[:] = np.bincount(request_index, weights=inner, minlength=stride)
            elif column.multi_valued:
                row[:] = block.inner[column.key]
        if stride == 0:
            # torchrec's sharded collections refuse a stride of 0: one empty run stands for none.
            stride, lengths = 1, np.zeros((len(columns), 1), dtype=np.int64)
        values = [block.ids[column.key] for column in columns]
        # On a GPU, torchrec would have to wait for the device to work these out.
        per_key = [len(each) for each in values]
        return KeyedJaggedTensor(
            keys=[column.key for column in columns],
            values=torch.from_numpy(np.concatenate(values, dtype=np.int64)),
            lengths=torch.from_numpy(lengths.reshape(-1)),
            stride=stride,
            length_per_key=per_key,
            offset_per_key=list(accumulate(per_key, initial=0)),
        )


def empty_batch(layout: Layout) -> Batch:
    """A batch without requests, for a rank whose share is used up."""
    none = np.zeros(0, dtype=np.int64)
    numbers = {
        level: np.zeros((0, len(layout.numbers_of(level))), dtype=np.float32) for level in LEVELS
    }
    block = Block(
        surface=none,
        candidate_lengths=none,
        history_lengths=none,
        ids={column.key: none for column in layout.ids},
        inner={column.key: none for column in layout.ids if column.multi_valued},
        numbers=numbers,
        labels=np.zeros((0, len(layout.tasks)), dtype=np.float32),
    )
    batch = Assembler(layout)(block)
    batch.position = []
    return batch


def _extras(block: Block, request_index: np.ndarray) -> pa.Table | None:
    """One row a candidate: its position in the request, then the extra columns."""
    if block.request_extras is None or block.candidate_extras is None:
        return None
    none = np.zeros(block.requests, dtype=np.int64)
    position = ragged_index(none, block.candidate_lengths)
    table = block.request_extras.take(pa.array(request_index))
    table = table.append_column("candidate", pa.array(position, pa.int32()))
    for name in block.candidate_extras.column_names:
        table = table.append_column(name, block.candidate_extras.column(name))
    return table


def _tensor(array: np.ndarray) -> Tensor:
    # Lists that Arrow took are read-only.
    return torch.from_numpy(array if array.flags.writeable else array.copy())

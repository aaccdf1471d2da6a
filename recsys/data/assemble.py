"""Encoded requests → a `Batch`."""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.data.block import LEVELS, Block
from recsys.data.columns import ragged_index
from recsys.data.layout import CANDIDATE_BAGS, IdColumn, Layout, is_sequences


def assemble(block: Block, layout: Layout) -> Batch:
    """A batch of all requests of `block`, which must be sorted by surface."""
    candidates = int(block.candidate_offsets[-1])
    request_index = np.repeat(np.arange(block.requests), block.candidate_lengths)
    request_offsets = np.searchsorted(block.surface, np.arange(len(layout.surfaces) + 1))
    sparse, bag_lengths = {}, {}
    for name in layout.collections:
        ids = layout.ids_of(name)
        if name == CANDIDATE_BAGS:
            sparse[name] = _jagged(ids, block, None, candidates)
        else:
            sparse[name] = _jagged(ids, block, request_index, block.requests)
        if is_sequences(name):
            for column in ids:
                if column.multi_valued:
                    bag_lengths[column.key] = _tensor(block.inner[column.key])
    numbers = [_tensor(block.numbers[level]) for level in LEVELS]
    return Batch(
        sparse=sparse,
        bag_lengths=bag_lengths,
        request_numbers=numbers[0],
        candidate_numbers=numbers[1],
        history_numbers=numbers[2],
        history_lengths=_tensor(block.history_lengths),
        candidate_lengths=_tensor(block.candidate_lengths),
        request_index=torch.from_numpy(request_index),
        request_surface_index=_tensor(block.surface),
        surface_index=torch.from_numpy(np.repeat(block.surface, block.candidate_lengths)),
        labels=_tensor(block.labels),
        request_offsets=tuple(request_offsets.tolist()),
        candidate_offsets=tuple(block.candidate_offsets[request_offsets].tolist()),
        longest_history=int(block.history_lengths.max(initial=0)),
        most_candidates=int(block.candidate_lengths.max(initial=0)),
        columns=_extras(block, request_index),
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
    batch = assemble(block, layout)
    batch.position = []
    return batch


def _jagged(
    columns: tuple[IdColumn, ...], block: Block, request_index: np.ndarray | None, stride: int
) -> KeyedJaggedTensor:
    """The features of one collection. `request_index` is given where the stride is R: the ids of
    a multi-valued candidate feature are then counted by request."""
    lengths = np.ones((len(columns), stride), dtype=np.int64)
    for row, column in zip(lengths, columns, strict=True):
        if column.level == "history":
            row[:] = block.history_lengths
        elif column.multi_valued and column.level == "candidate" and request_index is not None:
            inner = block.inner[column.key]
            row[:] = np.bincount(request_index, weights=inner, minlength=stride)
        elif column.multi_valued:
            row[:] = block.inner[column.key]
        elif column.level == "candidate" and request_index is not None:
            row[:] = block.candidate_lengths
    if stride == 0:
        # torchrec's sharded collections refuse a stride of 0: one empty run stands in for none.
        stride, lengths = 1, np.zeros((len(columns), 1), dtype=np.int64)
    values = [block.ids[column.key] for column in columns]
    # Known here for nothing; on a GPU, working them out would wait for the device.
    per_key = [len(each) for each in values]
    return KeyedJaggedTensor(
        keys=[column.key for column in columns],
        values=torch.from_numpy(np.concatenate(values, dtype=np.int64)),
        lengths=torch.from_numpy(lengths.reshape(-1)),
        stride=stride,
        length_per_key=per_key,
        offset_per_key=np.cumsum([0, *per_key]).tolist(),
    )


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
    # A copy: a view would keep the whole window in memory for as long as the batch lives.
    return torch.from_numpy(array.copy())

"""What the model computes on: R requests with their N candidates, sorted by surface."""

from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass
class Batch:
    """R requests and their N candidates, grouped by surface in the order of the config's surfaces.

    Candidates follow the order of their requests, so the rows of a surface are one contiguous slice
    of every tensor below. H is the number of history events of all requests together, S and T the
    numbers of surfaces and tasks of the configuration.

    Sparse features come as finished `KeyedJaggedTensor`s of embedding rows (0 = absent or unknown),
    one for each of `Layout.collections`. Numbers are raw float32 with NaN for null; the model
    transforms them.
    """

    # Collection → its features. Stride R for sequences_DIM and request_bags, N for candidate_bags;
    # where that is 0, the stride is 1 with empty runs, because torchrec's sharding refuses 0.
    sparse: dict[str, KeyedJaggedTensor]
    # Inner lengths of the multi-valued features that are read as sequences: key → [R] or [N].
    bag_lengths: dict[str, Tensor]
    request_numbers: Tensor  # [R, number features of the request]
    candidate_numbers: Tensor  # [N, number features of the candidate]
    history_numbers: Tensor  # [H, number features of an event]
    history_lengths: Tensor  # [R] int64
    candidate_lengths: Tensor  # [R] int64
    request_index: Tensor  # [N] int64, the request of each candidate
    request_surface_index: Tensor  # [R] int64, the surface of each request
    surface_index: Tensor  # [N] int64, the surface of each candidate
    labels: Tensor  # [N, T] float32, NaN where unknown
    # Known on the host, so that neither slicing nor padding waits for the device.
    request_offsets: tuple[int, ...]  # [S + 1], requests of surface s: offsets[s] to offsets[s + 1]
    candidate_offsets: tuple[int, ...]  # [S + 1], the same for candidates
    longest_history: int
    most_candidates: int  # of one request
    # Rows of the epoch's global order that are used up once this batch is trained on: the reader's
    # position. None where a batch does not come from a reader.
    position: Any = None
    # request_id, time, group and kept columns, one row a candidate; only for predictions.
    columns: pa.Table | None = None

    @property
    def requests(self) -> int:
        """R."""
        return self.request_offsets[-1]

    @property
    def candidates(self) -> int:
        """N."""
        return self.candidate_offsets[-1]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """This batch on another device (torchrec's `Pipelineable`)."""
        return self._map(lambda x: x.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """This batch in page-locked memory, for transfers that overlap with compute."""
        return self._map(lambda x: x.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory until `stream` is done with it (torchrec's `Pipelineable`)."""
        self._map(lambda x: (x.record_stream(stream), x)[1])

    def _map(self, function: Any) -> "Batch":
        changed: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor | KeyedJaggedTensor):
                changed[each.name] = function(value)
        changed["sparse"] = {name: function(x) for name, x in self.sparse.items()}
        changed["bag_lengths"] = {key: function(x) for key, x in self.bag_lengths.items()}
        return replace(self, **changed)

"""What the model computes on: R requests with their N candidates, sorted by surface."""

from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from recsys.data.layout import CANDIDATE_BAGS


def _runs(jagged: KeyedJaggedTensor, rows: slice) -> KeyedJaggedTensor:
    """Some successive runs of every feature."""
    count = rows.stop - rows.start
    values, lengths = [], []
    for each in jagged.to_dict().values():
        offsets = each.offsets()
        values.append(each.values()[offsets[rows.start] : offsets[rows.stop]])
        lengths.append(each.lengths()[rows] if count else each.lengths().new_zeros(1))
    return KeyedJaggedTensor(
        keys=jagged.keys(), values=torch.cat(values), lengths=torch.cat(lengths)
    )


@dataclass
class Batch(Pipelineable):
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
    passed: int  # requests, and those that sampling left out before them
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

    def of_surface(self, s: int) -> "Batch":
        """The part of surface number `s`, as a batch of its own."""
        requests = slice(self.request_offsets[s], self.request_offsets[s + 1])
        candidates = slice(self.candidate_offsets[s], self.candidate_offsets[s + 1])
        before = int(self.history_lengths[: requests.start].sum())
        events = slice(before, before + int(self.history_lengths[requests].sum()))
        # Everything of a surface is one run of rows, in each feature of each collection.
        sparse = {
            name: _runs(jagged, candidates if name == CANDIDATE_BAGS else requests)
            for name, jagged in self.sparse.items()
        }
        bag_lengths = {
            key: lengths[requests if key.startswith("request.") else candidates]
            for key, lengths in self.bag_lengths.items()
        }

        def offsets(all_surfaces: tuple[int, ...], rows: slice) -> tuple[int, ...]:
            return tuple(min(max(o, rows.start), rows.stop) - rows.start for o in all_surfaces)

        return replace(
            self,
            sparse=sparse,
            bag_lengths=bag_lengths,
            request_numbers=self.request_numbers[requests],
            candidate_numbers=self.candidate_numbers[candidates],
            history_numbers=self.history_numbers[events],
            history_lengths=self.history_lengths[requests],
            candidate_lengths=self.candidate_lengths[requests],
            request_index=self.request_index[candidates] - requests.start,
            request_surface_index=self.request_surface_index[requests],
            surface_index=self.surface_index[candidates],
            labels=self.labels[candidates],
            request_offsets=offsets(self.request_offsets, requests),
            candidate_offsets=offsets(self.candidate_offsets, candidates),
            longest_history=int(self.history_lengths[requests].max())
            if requests.stop > requests.start
            else 0,
            most_candidates=int(self.candidate_lengths[requests].max())
            if requests.stop > requests.start
            else 0,
            columns=None
            if self.columns is None
            else self.columns.slice(candidates.start, candidates.stop - candidates.start),
        )

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

"""Parts of tensors: the rows of each surface, some columns."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from recsys.data.batch import Batch


def pick(tensor: Tensor, places: Sequence[int], dim: int = 0) -> Tensor:
    """The slices of a tensor at some places of a dimension; `tensor[places]` for `dim = 0`.

    A sequence as an index would be copied to the device, and the host would wait for that.
    """
    return torch.stack([tensor.select(dim, place) for place in places], dim)


class Slices:
    """Cuts tensors of R requests or N candidates by surface, each tensor once.

    The gradient of a slice is a tensor of zeros of the whole batch with that slice filled in, and
    S of them are added up: rows × surfaces. All parts of one `split` have one gradient, their
    concatenation, so that the cost of a step does not grow with the number of surfaces.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._parts: dict[tuple[int, bool], tuple[Tensor, Sequence[Tensor]]] = {}

    def candidates(self, tensor: Tensor, s: int) -> Tensor:
        """The rows of surface number `s` of `[N, …]`."""
        return self._part(tensor, s, self.batch.candidate_offsets, False)

    def requests(self, tensor: Tensor, s: int) -> Tensor:
        """The rows of surface number `s` of `[R, …]`."""
        return self._part(tensor, s, self.batch.request_offsets, True)

    def _part(self, tensor: Tensor, s: int, offsets: tuple[int, ...], requests: bool) -> Tensor:
        if offsets[s + 1] - offsets[s] == offsets[-1]:
            return tensor  # all rows are of this surface
        key = (id(tensor), requests)
        if key not in self._parts:
            sizes = [b - a for a, b in pairwise(offsets)]
            # The tensor is kept, so that no other one gets its id.
            self._parts[key] = (tensor, tensor.split(sizes))
        return self._parts[key][1][s]

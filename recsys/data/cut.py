"""Where one batch ends and the next begins."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from recsys.data.block import Block, concatenate


def cut(
    windows: Iterable[tuple[Block, np.ndarray]], batch_candidates: int
) -> Iterator[tuple[Block, list[np.ndarray]]]:
    """Deals requests to batches, sorted by surface inside each (a stable sort).

    `windows` are decoded requests and which of them to take, in order. A batch takes as many
    successive requests as fit in `batch_candidates`, and at least one; a request without
    candidates counts as one, so that memory stays bounded. Yields blocks with the rows of each of
    their batches: every window once, though it may complete no batch, and in between the batches
    that lie in several windows.
    """
    begun: Block | None = None  # a batch that goes on in the next window
    for block, order in windows:
        bounds, full = [0], batch_candidates - _cost(begun)
        ends = np.cumsum(np.maximum(block.candidate_lengths[order], 1))
        while (stop := int(np.searchsorted(ends, full, side="right"))) < len(order):
            if stop == bounds[-1] and (begun is None or len(bounds) > 1):
                stop += 1  # alone, and larger than a batch should be
            bounds.append(stop)
            full = int(ends[stop - 1] if stop else 0) + batch_candidates
        if begun is not None and len(bounds) > 1:
            begun = concatenate([begun, block.select(order[: bounds[1]])])
            yield begun, [_by_surface(begun, np.arange(begun.requests))]
            begun, bounds = None, bounds[1:]
        yield block, [_by_surface(block, order[start:stop]) for start, stop in pairwise(bounds)]
        if bounds[-1] < len(order):
            rest = block.select(order[bounds[-1] :])
            begun = rest if begun is None else concatenate([begun, rest])
    if begun is not None:
        yield begun, [_by_surface(begun, np.arange(begun.requests))]


def _cost(block: Block | None) -> int:
    return 0 if block is None else int(np.maximum(block.candidate_lengths, 1).sum())


def _by_surface(block: Block, rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(block.surface[rows], kind="stable")]

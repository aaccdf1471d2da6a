"""Where one batch ends and the next begins."""

from collections.abc import Iterable, Iterator

import numpy as np

from recsys.data.block import Block, concatenate


def cut(
    windows: Iterable[tuple[Block, np.ndarray]], batch_candidates: int
) -> Iterator[tuple[Block, list[int]]]:
    """Puts requests in the order of batches, sorted by surface inside each (a stable sort).

    `windows` are decoded requests and which of them to take, in order. A batch takes as many
    successive requests as fit in `batch_candidates`, and at least one; a request without
    candidates counts as one, so that memory stays bounded. Yields blocks with the bounds of
    their batches: batch i is the requests bounds[i] to bounds[i + 1].
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
        rest = block.select(order[bounds[-1] :])
        if len(bounds) == 1:
            begun = rest if begun is None else concatenate([begun, rest])
            continue
        number = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        rows = order[: bounds[-1]]
        surface = block.surface[rows]
        place = number * (int(surface.max(initial=0)) + 1) + surface
        # numpy sorts narrow integers by radix.
        place = place.astype(np.min_scalar_type(int(place.max(initial=0))))
        place = np.argsort(place, kind="stable")
        block = block.select(rows[place])  # noqa: PLW2901 - the window as decoded is let go
        if begun is not None:
            yield _sorted(concatenate([begun, block.slice(0, bounds[1])]))
            bounds = bounds[1:]
        begun = rest if rest.requests else None
        if len(bounds) > 1:
            yield block, bounds
    if begun is not None:
        yield _sorted(begun)


def _cost(block: Block | None) -> int:
    return 0 if block is None else int(np.maximum(block.candidate_lengths, 1).sum())


def _sorted(block: Block) -> tuple[Block, list[int]]:
    return block.select(np.argsort(block.surface, kind="stable")), [0, block.requests]

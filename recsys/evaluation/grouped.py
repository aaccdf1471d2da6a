"""GAUC and HIT@k: what needs the rows of a user, or of a request, together.

Rows are streamed in the order of the user or request, and taken in blocks of whole ones. Memory
holds a block: some batches, and at least one user's rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.metrics import auc_of_groups
from recsys.evaluation.rows import REQUEST, UNIT, PredictionRows, integers
from recsys.evaluation.slices import Slicing
from recsys.sql import quoted

Rows = dict[str, NDArray[Any]]


def whole_groups(batches: Iterable[Rows], key: str) -> Iterator[Rows]:
    """Batches sorted by `key` → blocks in which no run of equal keys is cut."""
    held: list[Rows] = []
    for batch in batches:
        # Where the last key of the batch begins: it may go on in the next batch.
        last = int(np.searchsorted(batch[key], batch[key][-1]))
        if last:
            held.append({name: values[:last] for name, values in batch.items()})
            yield _joined(held)
            held = []
        held.append({name: values[last:] for name, values in batch.items()})
    if held:
        yield _joined(held)


def _joined(parts: list[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _columns(
    rows: PredictionRows, slicings: Sequence[Slicing]
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    columns = {f"slice {each.name}": each.sql for each in slicings}
    names = []
    for t, task in enumerate(rows.tasks):
        columns |= {f"p{t}": rows.probability(task), f"y{t}": rows.label(task)}
        columns[f"w{t}"] = rows.weight(task)
        names.append((f"p{t}", f"y{t}", f"w{t}"))
    return columns, names


def gauc_sums(
    rows: PredictionRows, slicings: Sequence[Slicing], buckets: int
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(slicing, task) → `[V, K, 2]`: Σ n_g AUC_g and Σ n_g over the groups with both classes."""
    columns, names = _columns(rows, slicings)
    found = {
        (each.name, task): np.zeros((len(each.labels), buckets, 2))
        for each in slicings
        for task in rows.tasks
    }
    stream = rows.stream(
        {"unit": UNIT, **columns}, where=f"{quoted('group')} IS NOT NULL", order=quoted("unit")
    )
    for block in whole_groups(stream, "unit"):
        unit = block["unit"]
        group = np.cumsum(np.r_[0, unit[1:] != unit[:-1]])
        for task, (p, y, w) in zip(rows.tasks, names, strict=True):
            known = ~np.isnan(block[p]) & ~np.isnan(block[y])
            for each in slicings:
                slice_of = integers(block[f"slice {each.name}"])
                keep = known & (slice_of >= 0)
                if not keep.any():
                    continue
                v = len(each.labels)
                # Ascending keys number the groups as `auc_of_groups` does.
                key, first = np.unique(group[keep] * v + slice_of[keep], return_index=True)
                values, impressions = auc_of_groups(
                    block[p][keep],
                    block[y][keep].astype(np.float64),
                    group[keep] * v + slice_of[keep],
                    block[w][keep],
                )
                both = ~np.isnan(values)
                bucket = (unit[keep][first] % np.uint64(buckets)).astype(np.int64)
                at = (key % v * buckets + bucket)[both]
                sums = found[each.name, task].reshape(-1, 2)
                weight = impressions[both]
                np.add.at(sums, at, np.stack([values[both] * weight, weight], axis=1))
    return found


def hit_sums(
    rows: PredictionRows, slicings: Sequence[Slicing], buckets: int, top: Sequence[int]
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(slicing, task) → `[V, K, 1 + len(top)]`: positives, and those in the top k of a request.

    Candidates of equal score share their places: of m tied candidates that begin at place r (from
    0), each is in the top k by the share clip(k - r, 0, m) / m, the expectation over their orders.
    """
    columns, names = _columns(rows, slicings)
    found = {
        (each.name, task): np.zeros((len(each.labels), buckets, 1 + len(top)))
        for each in slicings
        for task in rows.tasks
    }
    stream = rows.stream({"request": REQUEST, "unit": UNIT, **columns}, order=quoted("request"))
    for block in whole_groups(stream, "request"):
        bucket = (block["unit"] % np.uint64(buckets)).astype(np.int64)
        for task, (p, y, w) in zip(rows.tasks, names, strict=True):
            share = top_shares(block["request"], block[p], top)
            positive = block[w] * np.nan_to_num(block[y].astype(np.float64))
            positive[np.isnan(block[p])] = 0
            values = positive[:, None] * np.concatenate([np.ones((len(share), 1)), share], axis=1)
            for each in slicings:
                slice_of = integers(block[f"slice {each.name}"])
                keep = (positive > 0) & (slice_of >= 0)
                sums = found[each.name, task].reshape(-1, 1 + len(top))
                np.add.at(sums, slice_of[keep] * buckets + bucket[keep], values[keep])
    return found


def top_shares(
    request: NDArray[Any], score: NDArray[Any], top: Sequence[int]
) -> NDArray[np.float64]:
    """`[n, len(top)]`, how surely each candidate is in the top k of its request; NaN scores: 0."""
    shares = np.zeros((len(score), len(top)))
    known = np.flatnonzero(~np.isnan(score))
    if not len(known):
        return shares
    # lexsort sorts by its last key first.
    order = known[np.lexsort((-score[known], request[known]))]
    r, s = request[order], score[order]
    new_request = np.r_[True, r[1:] != r[:-1]]
    new_run = new_request | np.r_[True, s[1:] != s[:-1]]
    starts = np.flatnonzero(new_run)
    sizes = np.diff(np.r_[starts, len(order)])
    begin = np.maximum.accumulate(np.where(new_request, np.arange(len(order)), 0))
    place = starts - begin[starts]
    for i, k in enumerate(top):
        shares[order, i] = np.repeat(np.clip(k - place, 0, sizes) / sizes, sizes)
    return shares

"""A predictions table → the sums of every slice and task, in bounded memory.

    for each task   rows ascending by score  ─► exact AUC and PR-AUC; where to cut score bins
                    rows in any order        ─► sums by slice and bucket of users
    once            rows by user             ─► GAUC
                    rows by request          ─► HIT@k

Memory holds DuckDB's limit, and sums whose size does not depend on the number of rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.bootstrap import BUCKETS
from recsys.evaluation.grouped import gauc_sums, hit_sums
from recsys.evaluation.ranking import RankedSlice, edges_of
from recsys.evaluation.rows import UNIT, PredictionRows, integers
from recsys.evaluation.slices import Slicing, by_surface, everything
from recsys.evaluation.statistic import Slice
from recsys.evaluation.sums import ROWS, MomentSums, SliceSums, TaskRows

TOP = (1, 5, 10)
QUANTILES = 256  # of all scores; those of the surfaces come to them
MOST_BINS = 512
SCORE_BYTES = 512e6  # of the score histograms of one task

Step = Callable[[str], None]


@dataclass
class Measured:
    """What was measured of one table."""

    slices: dict[tuple[str, str, str], Slice] = field(default_factory=dict)
    """By slicing, label and task; only those whose surface has the task."""
    edges: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Task → edges of its score bins."""
    surfaces: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Task → moments by surface `[S, K, 8]`."""
    segments: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    """Segment → task → moments by its values `[V, K, 8]`."""
    days: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Task → moments by surface and day `[S × D, K, 8]`."""
    active: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Which buckets have rows, `[K]`."""


def steps_of(rows: PredictionRows) -> int:
    """How often `measure` reports a step."""
    return 2 * len(rows.tasks) + 2


def measure(
    rows: PredictionRows,
    segments: Sequence[Slicing] = (),
    days: Slicing | None = None,
    *,
    buckets: int = BUCKETS,
    top: Sequence[int] = TOP,
    step: Step = lambda _: None,
) -> Measured:
    """Every sum of a table.

    Args:
        rows: The table.
        segments: Slicings beside all rows and the surfaces.
        days: A slicing by surface and day.
        buckets: K, of users; 1 where no interval is asked for.
        top: The k of HIT@k.
        step: Called with a name before each pass.
    """
    slicings = [everything(), by_surface(rows), *segments]
    names = [each.name for each in (*slicings, *([days] if days else []))]
    assert len(set(names)) == len(names), f"sums are kept by name, so no slicing twice: {names}"
    slices = sum(len(each.labels) for each in slicings)
    most = int(np.clip(SCORE_BYTES / (slices * buckets * 8), 64, MOST_BINS))
    found = Measured(active=np.zeros(buckets, bool))
    sums: dict[str, dict[str, SliceSums]] = {}
    ranked: dict[str, dict[str, list[RankedSlice]]] = {}
    for task in rows.tasks:
        step(f"{task}: ranking")
        ranked[task] = rank(rows, task, slicings)
        own = [ranked[task][name] for name in ("all", "surface")]
        found.edges[task] = edges_of([each for slices in own for each in slices], most)
        step(f"{task}: sums")
        sums[task], by_day = _sum(rows, task, slicings, days, buckets, found.edges[task])
        if by_day is not None:
            found.days[task] = by_day.moments
        found.surfaces[task] = sums[task]["surface"].moments
        found.active |= sums[task]["all"].moments[0, :, ROWS] > 0
        for each in segments:
            found.segments.setdefault(each.name, {})[task] = sums[task][each.name].moments
    step("GAUC")
    gauc = gauc_sums(rows, slicings, buckets)
    step("HIT@k")
    hit = hit_sums(rows, slicings, buckets, top)
    for task in rows.tasks:
        for each in slicings:
            for v, label in enumerate(each.labels):
                if each.name == "surface" and not rows.has(label, task):
                    continue
                s = sums[task][each.name]
                auc, pr_auc = ranked[task][each.name][v].result()
                found.slices[each.name, label, task] = Slice(
                    moments=s.moments[v],
                    ece=s.ece[v],
                    ece_raw=None if s.ece_raw is None else s.ece_raw[v],
                    scores=s.scores[v],
                    totals=s.totals[v],
                    logits=s.logits[v],
                    gauc=gauc[each.name, task][v],
                    hit=hit[each.name, task][v],
                    soft=bool(s.soft[v]),
                    auc=auc,
                    pr_auc=pr_auc,
                    top=top,
                )
    return found


def rank(
    rows: PredictionRows, task: str, slicings: Sequence[Slicing]
) -> dict[str, list[RankedSlice]]:
    """Slicing → for each of its slices, its exact ranking; ask it for `result` once."""
    p, y, w = rows.probability(task), rows.label(task), rows.weight(task)
    known = f"({p}) IS NOT NULL AND ({y}) IS NOT NULL"
    ranked: dict[str, list[RankedSlice]] = {}
    for each in slicings:
        counts = {
            int(v): (count, float(ones or 0), float(zeros or 0))
            for v, count, ones, zeros in rows.query(
                f"SELECT {each.sql} AS v, count(*), sum({w}) FILTER ({y} = 1), "
                f"sum({w}) FILTER ({y} < 1) FROM rows WHERE {known} GROUP BY 1"
            )
            if v is not None
        }
        wanted = {"all": QUANTILES, "surface": max(16, QUANTILES // len(each.labels))}
        ranked[each.name] = [
            RankedSlice(*counts.get(v, (0, 0.0, 0.0)), quantiles=wanted.get(each.name, 0))
            for v in range(len(each.labels))
        ]
    columns = {"p": p, "y": y, "w": w} | {f"slice {each.name}": each.sql for each in slicings}
    for batch in rows.stream(columns, where=known, order="p"):
        positive = batch["y"] == 1
        for each in slicings:
            slice_of = integers(batch[f"slice {each.name}"])
            _add(ranked[each.name], slice_of, batch["p"], positive, batch["w"])
    return ranked


def _add(
    ranked: list[RankedSlice],
    slice_of: NDArray[np.int64],
    score: NDArray[Any],
    positive: NDArray[np.bool_],
    weight: NDArray[np.float64],
) -> None:
    """Rows of one batch to their slices, in their order."""
    if len(ranked) == 1:
        ranked[0].add(score, positive, weight)
        return
    order = np.argsort(slice_of, kind="stable")
    bounds = np.searchsorted(slice_of[order], np.arange(len(ranked) + 1))
    for v, each in enumerate(ranked):
        own = order[bounds[v] : bounds[v + 1]]
        each.add(score[own], positive[own], weight[own])


def _sum(
    rows: PredictionRows,
    task: str,
    slicings: Sequence[Slicing],
    days: Slicing | None,
    buckets: int,
    edges: NDArray[np.float64],
) -> tuple[dict[str, SliceSums], MomentSums | None]:
    p, y, raw = rows.probability(task), rows.label(task), rows.raw(task)
    sums = {
        each.name: SliceSums(len(each.labels), buckets, edges, raw is not None) for each in slicings
    }
    by_day = MomentSums(len(days.labels), buckets) if days else None
    columns = {"unit": UNIT, "p": p, "y": y, "w": rows.weight(task)}
    columns |= {"raw": raw} if raw else {}
    columns |= {f"slice {each.name}": each.sql for each in (*slicings, *([days] if days else []))}
    known = f"({p}) IS NOT NULL AND ({y}) IS NOT NULL"
    for batch in rows.stream(columns, where=known):
        part = TaskRows(batch, buckets, edges)
        for each in slicings:
            sums[each.name].add(part, part.slice_of(batch, each.name))
        if days and by_day is not None:
            by_day.add(part, part.slice_of(batch, days.name))
    return sums, by_day

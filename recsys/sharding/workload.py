"""How many ids a step looks up: lengths and batch sizes, measured from the data."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.config import Config
from recsys.data.layout import CANDIDATE_BAGS, REQUEST_BAGS, IdColumn, Layout
from recsys.data.rowgroups import RowGroups
from recsys.data.schema import Column, Projection, check_split, features_of
from recsys.data.splits import Split, open_split
from recsys.errors import UserError

# Of a sample: enough for means to two digits, read in a second.
SAMPLE_REQUESTS = 20_000
SAMPLE_ROW_GROUPS = 16


@dataclass(frozen=True)
class Workload:
    """Means of one rank's batch.

    Args:
        requests: R, requests in a batch.
        candidates: of a request.
        history: events of a request's history.
        ids: key of a multi-valued feature → ids in its list.
        source: where these were measured, or that they were not.
        measured: False if they are assumptions.
    """

    requests: int
    candidates: float
    history: float
    ids: dict[str, float] = field(default_factory=dict)
    source: str = ""
    measured: bool = False

    def runs(self, column: IdColumn, collection: str) -> tuple[int, float]:
        """Runs of ids that the collection sees of a feature in a batch, and their mean length."""
        mean = self.ids.get(column.key, 1.0) if column.multi_valued else 1.0
        if collection == REQUEST_BAGS:
            return self.requests, mean
        if collection == CANDIDATE_BAGS:
            return max(1, round(self.requests * self.candidates)), mean
        # Sequences: one run a request.
        level = {"request": 1.0, "candidate": self.candidates, "history": self.history}
        return self.requests, level[column.level] * mean

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "requests_per_batch": self.requests,
            "candidates_per_request": self.candidates,
            "history_length": self.history,
            "ids": self.ids,
            "measured": self.measured,
            "source": self.source,
        }


def workload(config: Config) -> Workload:
    """Measured on the train split; by `sharding.assumed` if it cannot be opened.

    Raises `UserError` if the split is there but does not fit the configuration.
    """
    try:
        split = open_split(config, "train")
    except UserError as error:
        return assume(config, str(error))
    return measure(config, split)


def assume(config: Config, reason: str = "no data was read") -> Workload:
    """What `sharding.assumed` says."""
    assumed, layout = config.sharding.assumed, Layout(config)
    history = layout.history_length if assumed.history is None else assumed.history
    return Workload(
        requests=_requests(config, assumed.candidates),
        candidates=assumed.candidates,
        history=float(min(history, layout.history_length)),
        ids={c.key: assumed.ids.get(c.name, 1.0) for c in layout.ids if c.multi_valued},
        source=f"sharding.assumed, not measured ({reason})",
    )


def measure(config: Config, split: Split) -> Workload:
    """Means over some row groups spread evenly over the split; the same for the same files."""
    layout = Layout(config)
    columns = _columns(layout)
    chosen = Projection(layout, columns, labels=False)
    check_split(split, chosen)
    counts = {"request": 0, "candidate": 0, "history": 0}
    slots = 0  # what requests count as when batches are cut: at least one candidate each
    ids = {c.key: 0 for c in layout.ids if c.multi_valued}
    with RowGroups(split, chosen) as source:
        for number in _spread(split):
            found = source.columns(number, source.place(number))
            counts["request"] += len(found.surface)
            counts["candidate"] += int(found.candidate_lengths.sum())
            counts["history"] += int(found.history_lengths.sum())
            slots += int(np.maximum(found.candidate_lengths, 1).sum())
            for key in ids:
                ids[key] += int(found.inner[key].sum())
    requests = max(1, counts["request"])
    return Workload(
        requests=_requests(config, slots / requests),
        candidates=counts["candidate"] / requests,
        history=counts["history"] / requests,
        ids={key: n / max(1, counts[key.partition(".")[0]]) for key, n in ids.items()},
        source=f"measured on {counts['request']:,} of {split.requests:,} requests of {split.url}",
        measured=True,
    )


def _requests(config: Config, candidates: float) -> int:
    """R: a batch is full but for less than one request."""
    return max(1, round(config.training.batch_candidates / max(candidates, 1.0)))


def _columns(layout: Layout) -> tuple[Column, ...]:
    """The fewest features that show all lengths: pooled ones, and one of each list of structs."""
    features = features_of(layout)
    wanted: list[Column] = [c for c in layout.ids if c.multi_valued]
    for level in ("candidate", "history"):
        wanted += [each for each in features if each.level == level][:1]
    unique = {each.key: each for each in wanted}
    return tuple(unique.values())


def _spread(split: Split) -> list[int]:
    """Numbers of row groups, evenly spread, until the sample is large enough."""
    groups = split.row_groups
    mean = split.requests / len(groups)
    enough = max(1, min(SAMPLE_ROW_GROUPS, len(groups), round(SAMPLE_REQUESTS / mean)))
    return [len(groups) * i // enough for i in range(enough)]

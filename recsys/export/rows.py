"""Rows of an export's surface as batches."""

from collections.abc import Iterator

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.faults import UnknownIds
from recsys.data.reader import Reader
from recsys.data.splits import Split
from recsys.data.statistics import Statistics


def labelled_batches(
    config: Config,
    statistics: Statistics,
    split: Split,
    candidates: int,
    *,
    shuffle: bool = True,
    labels: bool = True,
) -> Iterator[Batch]:
    """Batches of about so many candidates in all: drawn from all of the split, always the same, or
    the first ones without `shuffle`.

    Ids are read as in serving: an unknown one is no fault.
    """
    with Reader(
        config,
        split,
        statistics,
        shuffle=shuffle,
        batch_candidates=config.evaluation.batch_candidates,
        labels=labels,
        unknown=UnknownIds(),
    ) as reader:
        for batch in reader:
            if batch.candidates:
                yield batch
            candidates -= batch.candidates
            if candidates <= 0:
                return


def single_requests(
    config: Config, statistics: Statistics, split: Split, most: int
) -> Iterator[tuple[int, Batch]]:
    """The first requests of a split, one a batch, with their places; without labels."""
    with Reader(
        config,
        split,
        statistics,
        shuffle=False,
        batch_candidates=1,
        labels=False,
        unknown=UnknownIds(),
    ) as reader:
        for at, batch in enumerate(reader):
            if at == most:
                return
            if batch.candidates:
                yield at, batch

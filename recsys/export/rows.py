"""The rows of one surface in a request table of several."""

from collections.abc import Iterator

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.faults import UnknownIds
from recsys.data.reader import Reader
from recsys.data.splits import Split, open_split
from recsys.data.statistics import Statistics


def own_rows(config: Config, split: Split) -> Split:
    """The rows of the one surface of a view's configuration; those of the surfaces that it was
    trained with are passed over.

    Raises `UserError` if no row is left.
    """
    others = [name for name in config.model.surfaces or () if name not in config.surfaces]
    return split.without(others, of=f"surface {', '.join(config.surfaces)}") if others else split


def own_split(config: Config, name: str) -> Split:
    """`train`, `valid` or `test` of a view's configuration, its own rows."""
    return own_rows(config, open_split(config, name))


def labelled_batches(
    config: Config,
    statistics: Statistics,
    split: Split,
    candidates: int,
    *,
    shuffle: bool = True,
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

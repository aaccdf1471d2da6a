"""Which feature goes where in a batch: facts that follow from the configuration alone."""

from dataclasses import dataclass, field
from functools import cached_property

from recsys.config import Config, IdFeature, NumberFeature
from recsys.config.features import Level

# The collections that tables live in; see `Layout`. Those of sequences are one for each width,
# `sequences_8`, `sequences_32`, …, because a torchrec `EmbeddingCollection` has one width.
REQUEST_BAGS = "request_bags"
CANDIDATE_BAGS = "candidate_bags"


def is_sequences(collection: str) -> bool:
    """Whether a collection holds sequences (an `EmbeddingCollection`) and not bags."""
    return collection.startswith("sequences_")


@dataclass(frozen=True)
class IdColumn:
    """An id feature of one level, as the embedding collections know it."""

    level: Level
    name: str
    feature: IdFeature = field(repr=False)

    @cached_property
    def key(self) -> str:
        """Its key in a `KeyedJaggedTensor`, for example `candidate.video_id`."""
        return f"{self.level}.{self.name}"

    @property
    def multi_valued(self) -> bool:
        return self.feature.pooling is not None


@dataclass(frozen=True)
class NumberColumn:
    """A number feature of one level."""

    level: Level
    name: str
    feature: NumberFeature = field(repr=False)

    @cached_property
    def key(self) -> str:
        """Its name among the features of all levels, for example `candidate.duration_ms`."""
        return f"{self.level}.{self.name}"

    multi_valued = False


class Layout:
    """The static layout of batches of one experiment.

    A table lives in one collection:

    - `request_bags` (an `EmbeddingBagCollection` of stride R) if only request features read it,
    - `candidate_bags` (one of stride N) if only candidate features read it,
    - `sequences_DIM` (an `EmbeddingCollection` of stride R) if the history reads it, or requests
      and candidates both do, or its features pool in different ways. There a request feature is a
      sequence of length 1, a candidate feature one of length n_candidates.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        # Values of the column `axis`, which are the product's surfaces unless the config says else.
        self.axis = config.data.axis
        self.surfaces: tuple[str, ...] = tuple(config.active_surfaces)
        self.tasks: tuple[str, ...] = config.tasks
        # Without model.sequence nothing reads the history, so it is not even decoded.
        history = config.features.history if config.model.sequence else None
        self.history_length = history.length if history else 0
        read = [
            (level, name, feature)
            for level, name, feature in config.features
            if (history or level != "history")
            and (feature.surfaces is None or set(feature.surfaces) & set(self.surfaces))
        ]
        self.ids: tuple[IdColumn, ...] = tuple(
            IdColumn(level, name, feature)
            for level, name, feature in read
            if isinstance(feature, IdFeature)
        )
        self.numbers: tuple[NumberColumn, ...] = tuple(
            NumberColumn(level, name, feature)
            for level, name, feature in read
            if isinstance(feature, NumberFeature)
        )

    @cached_property
    def collection_of(self) -> dict[str, str]:
        """Table → the collection it lives in; tables that nothing reads are left out."""
        found = {}
        for table in self.config.tables:
            readers = [column for column in self.ids if column.feature.id == table]
            levels = {column.level for column in readers}
            poolings = {column.feature.pooling for column in readers} - {None}
            if not readers:
                continue
            if levels == {"request"} and len(poolings) < 2:
                found[table] = REQUEST_BAGS
            elif levels == {"candidate"} and len(poolings) < 2:
                found[table] = CANDIDATE_BAGS
            else:
                found[table] = f"sequences_{self.config.tables[table].dim}"
        return found

    @cached_property
    def collections(self) -> tuple[str, ...]:
        """The collections that have tables: the keys of a batch's `sparse`, sorted."""
        return tuple(sorted(set(self.collection_of.values())))

    def ids_of(self, collection: str) -> tuple[IdColumn, ...]:
        """The id features of one collection, in the order of its `KeyedJaggedTensor`'s keys."""
        return tuple(c for c in self.ids if self.collection_of[c.feature.id] == collection)

    def numbers_of(self, level: Level) -> tuple[NumberColumn, ...]:
        """The number features of one level, in the order of the batch's number columns."""
        return tuple(column for column in self.numbers if column.level == level)

    def task_indices(self, surface: str) -> tuple[int, ...]:
        """Positions in `tasks` of the tasks of `surface`, in the surface's own order."""
        return tuple(self.tasks.index(task) for task in self.config.surfaces[surface].tasks)

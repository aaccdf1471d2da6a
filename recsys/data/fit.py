"""One pass over the train split that fits `Statistics`, in memory that the data does not set."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from recsys.config import Config
from recsys.data.encode import write_numbers
from recsys.data.encoding import Vocabulary
from recsys.data.hashing import splitmix64
from recsys.data.layout import IdColumn, Layout
from recsys.data.rowgroups import RowGroups
from recsys.data.schema import Column, Projection, check_split, column_name, projection
from recsys.data.splits import Split, open_split
from recsys.data.statistics import NumberStatistics, Statistics

QUANTILES = 255
SAMPLE = 200_000  # values that quantiles are taken from
SPARE_IDS = 4_000_000  # counted besides 4 for each row of the table
MERGE_AT = 1_000_000  # counts of row groups that are kept apart


def fitted(layout: Layout) -> tuple[Column, ...]:
    """The features that need a pass over the train split."""
    tables = layout.config.tables
    ids = [column for column in layout.ids if tables[column.feature.id].encode == "vocab"]
    numbers = [each for each in layout.numbers if set(each.feature.number) != {"none"}]
    return (*ids, *numbers)


def fit(config: Config, split: Split | None = None) -> Statistics:
    """Fits all that the configuration needs on the train split, or on `split`.

    Deterministic. Reads nothing if there is neither a table with `encode: vocab` nor a number under
    a transform other than `none`. Values are counted as the model reads them: of the surfaces that
    have the feature, of the latest `history.length` events. Raises `UserError` for wrong files and
    schemas and for numbers that are not finite.
    """
    layout = Layout(config)
    features = fitted(layout)
    if not features:
        return Statistics()
    split = split or open_split(config, "train")
    check_split(split, projection(layout, split, predictions=False, labels=True))
    counters: dict[str, IdCounter] = {}
    moments: dict[str, NumberFitter] = {}
    with RowGroups(split, Projection(layout, features, labels=False)) as source:
        for number in range(len(split.row_groups)):
            place = source.place(number)
            columns = source.columns(number, place)
            for each in features:
                values = columns.values[each.key]
                if isinstance(each, IdColumn):
                    table = each.feature.id
                    counter = counters.setdefault(table, IdCounter(config.tables[table].rows))
                    counter.add(values)
                else:
                    check = np.empty((len(values), 1), np.float32)
                    write_numbers({column_name(each): values}, check, place)
                    moments.setdefault(each.key, NumberFitter()).add(values)
    vocabularies = {
        table: counter.vocabulary(config.tables[table].min_count)
        for table, counter in counters.items()
    }
    return Statistics(vocabularies, {key: found.statistics() for key, found in moments.items()})


class IdCounter:
    """Counts ids and keeps the most frequent.

    Exact up to 4 · `rows` + `SPARE_IDS` distinct ids. Beyond, the rarest ids so far are forgotten,
    and an id that is met later starts again from zero.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._most = 4 * rows + SPARE_IDS
        self._counts: list[pa.Table] = []

    def add(self, ids: pa.Array) -> None:
        """Counts integers, strings, or a dictionary of strings; nulls are passed over."""
        kind = pa.int64() if types.is_integer(ids.type) else pa.string()
        counts = ids.value_counts()
        table = pa.table({"id": counts.field(0).cast(kind), "count": counts.field(1)})
        self._counts.append(table.filter(pc.is_valid(table["id"])))
        if sum(map(len, self._counts[1:])) > max(MERGE_AT, len(self._counts[0])):
            self._merge()

    def vocabulary(self, min_count: int) -> Vocabulary:
        """The most frequent ids, at most `rows`, ties in the order of the id."""
        self._merge()
        table = self._counts[0]
        table = _frequent(table.filter(pc.greater_equal(table["count"], min_count)), self.rows)
        return Vocabulary(pa.concat_arrays(table["id"].chunks))

    def _merge(self) -> None:
        table = pa.concat_tables(self._counts)
        table = table.group_by("id", use_threads=False).aggregate([("count", "sum")])
        table = table.rename_columns(["id", "count"])
        if len(table) > self._most:
            table = _frequent(table, self._most // 2)
        self._counts = [table]


def _frequent(counts: pa.Table, most: int) -> pa.Table:
    return counts.sort_by([("count", "descending"), ("id", "ascending")]).slice(0, most)


class NumberFitter:
    """Mean and standard deviation in float64, and quantiles of a uniform sample of `SAMPLE`.

    The sample is of the values with the lowest pseudorandom priorities, which depend on a value's
    place in the split alone. Moments are merged as in Chan, Golub & LeVeque (1979).
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean
        self._values = np.zeros(0, dtype=np.float64)
        self._priorities = np.zeros(0, dtype=np.uint64)

    def add(self, numbers: pa.Array) -> None:
        values = numbers.cast(pa.float64()).drop_null().to_numpy()
        if not len(values):
            return
        places = np.arange(self._count, self._count + len(values), dtype=np.uint64)
        count, mean = len(values), float(values.mean())
        delta, total = mean - self._mean, self._count + count
        self._squares += float(np.square(values - mean).sum())
        self._squares += delta * delta * self._count * count / total
        self._mean += delta * count / total
        self._count = total
        self._sample(values, splitmix64(places))

    def statistics(self) -> NumberStatistics:
        if not self._count:
            return NumberStatistics(0.0, 1.0, (0.0,) * QUANTILES)
        std = math.sqrt(self._squares / self._count)
        shares = np.arange(1, QUANTILES + 1) / (QUANTILES + 1)
        quantiles = np.quantile(self._values, shares)
        return NumberStatistics(self._mean, std or 1.0, tuple(quantiles.tolist()))

    def _sample(self, values: np.ndarray, priorities: np.ndarray) -> None:
        if len(self._values) >= SAMPLE:
            low = priorities < self._priorities.max()
            values, priorities = values[low], priorities[low]
        self._values = np.append(self._values, values)
        self._priorities = np.append(self._priorities, priorities)
        if len(self._values) > SAMPLE:
            kept = np.argpartition(self._priorities, SAMPLE - 1)[:SAMPLE]
            self._values, self._priorities = self._values[kept], self._priorities[kept]

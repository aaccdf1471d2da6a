"""Reads single row groups of a split."""

from collections import OrderedDict

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.columns import Columns, flatten
from recsys.data.faults import Fault, Place, UnknownIds, UnseenSurfaces
from recsys.data.schema import Projection, leaf_columns, string_columns
from recsys.data.splits import Split, is_local, readable

# How many files stay open where row groups are read in a random order of files. An open file costs
# the memory of its footer, some MiB.
SHUFFLED_FILES = 16


class RowGroups:
    """The chosen columns of the row groups of a split; a context manager, for use in one thread.

    The `open_files` read last stay open: one is enough where row groups are read in their order.
    With `unknown`, ids that no table knows are counted there and are no faults; with `unseen`,
    neither are surfaces that the configuration does not have, if it names a fallback.
    """

    def __init__(
        self,
        split: Split,
        chosen: Projection,
        unknown: UnknownIds | None = None,
        unseen: UnseenSurfaces | None = None,
        open_files: int = 1,
    ) -> None:
        self.split = split
        self.chosen = chosen
        self.unknown = unknown
        self.unseen = unseen
        self.open_files = open_files
        self._open: OrderedDict[int, tuple[pq.ParquetFile, list[str]]] = OrderedDict()

    def columns(self, number: int, place: Place) -> Columns:
        """Row group `number` of the split, flattened; faults of its surfaces go to `place`."""
        return flatten(self.table(number), self.chosen, place)

    def place(self, number: int, collect: list[Fault] | None = None) -> Place:
        """Where row group `number` is; its faults are raised, or collected."""
        group = self.split.row_groups[number]
        file = self.split.show(group.file)
        return Place(file, group.index, collect, self.unknown, self.unseen)

    def table(self, number: int) -> pa.Table:
        """Row group `number` as Arrow has it, strings as dictionaries."""
        group = self.split.row_groups[number]
        with readable(self.split.show(group.file)):
            parquet, columns = self._file(group.file)
            table = parquet.read_row_group(group.index, columns=columns, use_threads=False)
        if self.split.chosen is not None:
            rows = self.split.chosen.rows(table[self.split.chosen.axis])
            table = table.filter(rows).combine_chunks()
        return table

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1][0].close(force=True)

    def _file(self, number: int) -> tuple[pq.ParquetFile, list[str]]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= self.open_files:
            self._open.popitem(last=False)[1][0].close(force=True)
        filesystem = self.split.filesystem
        source = filesystem.open_input_file(self.split.files[number])
        # Few large reads, which stay in memory until the next row group of the file: for the
        # latency of a network.
        remote = not is_local(filesystem)
        parquet = pq.ParquetFile(source, pre_buffer=remote)
        columns = leaf_columns(parquet, self.chosen)
        strings = string_columns(parquet.schema, columns, self.chosen)
        if strings:
            # Which columns are strings is known only once the footer is read.
            parquet = pq.ParquetFile(
                source, metadata=parquet.metadata, read_dictionary=strings, pre_buffer=remote
            )
        self._open[number] = parquet, columns
        return parquet, columns

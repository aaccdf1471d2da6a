"""Streams request tables of any length into Parquet files of a bounded size."""

from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq


class SplitWriter:
    """Writes `folder/part-00000.parquet`, … in row groups of exactly the asked number of requests.

    It holds less than one row group and one chunk. Rows keep the order in which they are given.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, row_group_requests: int, file_requests: int
    ) -> None:
        folder.mkdir(parents=True)
        self._folder, self._schema = folder, schema
        self._group = row_group_requests
        self._groups_a_file = max(1, file_requests // row_group_requests)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._groups = 0
        self.requests = 0

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._waiting_rows += len(table)
        while self._waiting_rows >= self._group:
            self._write_group(self._group)

    def close(self) -> None:
        """Writes what is left; an empty split still gets one file, so that it can be read."""
        if self._waiting_rows or not self._groups:
            self._write_group(self._waiting_rows)
        self._close_file()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close_file()

    def _write_group(self, rows: int) -> None:
        if self._writer is None:
            number = self._groups // self._groups_a_file
            self._writer = pq.ParquetWriter(
                self._folder / f"part-{number:05d}.parquet", self._schema, compression="zstd"
            )
        waiting = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        # One contiguous copy, so that the row group does not depend on where chunks ended.
        self._writer.write_table(waiting.slice(0, rows).combine_chunks(), row_group_size=rows or 1)
        rest = waiting.slice(rows)
        self._waiting = [rest] if len(rest) else []
        self._waiting_rows -= rows
        self.requests += rows
        self._groups += 1
        if self._groups % self._groups_a_file == 0:
            self._close_file()
        # Arrow's allocator keeps what is freed for later, and the more of it the longer a log gets.
        pa.default_memory_pool().release_unused()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

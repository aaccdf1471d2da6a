"""The predictions table: one row a candidate, Parquet files in one folder.

| column | type | meaning |
|---|---|---|
| `request_id` | int64 or string | the request |
| `candidate` | int32 | position of the candidate in its request, from 0 |
| `surface` | string | the surface of the request |
| `time` | int64 (ms) or timestamp | when the request was made |
| `group` | any, nullable | the group of GAUC and of the bootstrap, e.g. the user |
| `T`, a task | float32 or float64 | probability of label 1; null where the surface lacks the task |
| `logit.T` | float32 or float64 | the logit before calibration |
| `label.T` | float32 | 0, 1 or a fraction; null where unknown; absent where never known |
| `history_length` | int32 | events of the history that the model read; absent if it reads none |
| `known_group` | bool | whether the train split has rows of the group; absent where not known |
| `weight.T` | float32 or float64 | what the row weighs in metrics; 1 where null or absent |

A log that kept a share w of its negatives has `weight.T` 1 / w at these, so that metrics are those
of the whole traffic, for which `T` is corrected too. Besides there are the columns named in
`evaluation.keep`. A file may lack `logit.T`, `weight.T` and kept columns that others of the folder
have: one with a file a surface has weights in that of the down-sampled surface alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.errors import UserError
from recsys.evaluation.parquet import LABEL, LOGIT, WEIGHT
from recsys.files import check_out, put_back, step_aside, whole_folder

__all__ = ["LABEL", "LOGIT", "WEIGHT", "PredictionsWriter", "evaluate_predictions"]

REQUIRED_COLUMNS = ("request_id", "candidate", "surface", "time", "group")

ROWS_A_ROW_GROUP = 131_072
ROWS_A_FILE = 8_388_608

Column: TypeAlias = NDArray[Any] | pa.Array | Sequence[Any]


class PredictionsWriter:
    """Streams a predictions table to `folder`; holds at most one row group in memory.

    A context manager. The folder appears when the block ends well, and not at all otherwise:

        with PredictionsWriter(run / "predictions" / "test") as writer:
            for batch in batches:
                writer.append({"request_id": ..., "click": ..., "label.click": ...})

    Args:
        folder: The table. It must not exist yet, unless `replace`.
        replace: Put the new table in the place of an older one, once it is complete.
        rows_a_row_group: Rows buffered, which is also the size of a Parquet row group.
        rows_a_file: Rows after which a new file is begun.

    Raises:
        UserError: `folder` exists; or the block ends without a row.
        ValueError: an append lacks a required column, has other columns or other types than the
            first one, or columns of unequal length.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replace: bool = False,
        rows_a_row_group: int = ROWS_A_ROW_GROUP,
        rows_a_file: int = ROWS_A_FILE,
    ) -> None:
        self.folder = Path(folder)
        self.rows = 0
        self._replace = replace
        self._rows_a_row_group = rows_a_row_group
        self._rows_a_file = rows_a_file
        self._schema: pa.Schema | None = None
        self._buffer: list[pa.RecordBatch] = []
        self._buffered = 0
        self._files = 0
        self._file: pq.ParquetWriter | None = None
        self._rows_of_file = 0

    def __enter__(self) -> "PredictionsWriter":
        if not self._replace:
            if self.folder.exists():
                raise UserError(f"{self.folder}: exists; remove it or choose another folder")
            check_out(self.folder)
        else:
            put_back(self.folder)
        self._stack = ExitStack()
        self._beside = self._stack.enter_context(whole_folder(self.folder))
        self._stack.callback(self._close_file)  # before the folder is renamed or removed
        return self

    def append(self, rows: Mapping[str, Column] | pa.RecordBatch) -> None:
        """Adds rows: columns [N] by name, or a record batch.

        Nulls are nulls of a pyarrow array, masked entries of a `numpy.ma` array, and NaN in a
        `label.T`. NaN elsewhere stays NaN, so that `evaluate_predictions` can refuse it.
        """
        names = rows.schema.names if isinstance(rows, pa.RecordBatch) else list(rows)
        missing = [name for name in REQUIRED_COLUMNS if name not in names]
        if missing:
            raise ValueError(f"predictions need the column {missing[0]}; given: {names}")
        arrays = [_column(name, rows[name]) for name in names]
        batch = pa.RecordBatch.from_arrays(arrays, names=names)
        if self._schema is None:
            self._schema = batch.schema
        elif set(names) != set(self._schema.names):
            raise ValueError(f"columns {names} differ from the first ones: {self._schema.names}")
        batch = batch.select(self._schema.names).cast(self._schema)
        self.rows += batch.num_rows
        while batch.num_rows:
            space = self._rows_a_row_group - self._buffered
            self._buffer.append(batch.slice(0, space))
            self._buffered += self._buffer[-1].num_rows
            batch = batch.slice(space)
            if self._buffered == self._rows_a_row_group:
                self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        try:
            with self._stack:
                self._flush()
                if not self.rows:
                    raise UserError(
                        f"{self.folder}: no row was predicted; check that the split has requests"
                    )
                if self.folder.exists():
                    step_aside(self.folder)
        finally:
            put_back(self.folder)

    def _flush(self) -> None:
        if not self._buffered:
            return
        if self._file is None:
            path = self._beside / f"part-{self._files:05d}.parquet"
            self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
            self._files += 1
            self._rows_of_file = 0
        self._file.write_table(pa.Table.from_batches(self._buffer), self._rows_a_row_group)
        self._rows_of_file += self._buffered
        self._buffer, self._buffered = [], 0
        if self._rows_of_file >= self._rows_a_file:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def evaluate_predictions(
    path: str | Path,
    tasks: Sequence[str] | None = None,
    surfaces: Sequence[str] | None = None,
    *,
    top: Sequence[int] = (),
    fields: Sequence[str] = (),
    segments: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics per surface and task of a predictions table, exactly and in bounded memory.

    Args:
        path: A folder of Parquet files, or one file.
        tasks: Default: every `T` for which there is a column `label.T`, in that order.
        surfaces: Default: those of the table, by name. A surface given here that has no row is
            reported with 0 rows and no values.
        top: Adds `hit@k` for each of these k.
        fields: Adds the Field-ECE of these columns: `"field_ece": {column: {T: value}}`.
        segments: Adds metrics by the values or ranges of these columns:
            `"segments": {column: {label: {"tasks": {T: metrics}}}}`; see `slices.segments`.

    Returns:
        `{"split": None, "surfaces": {S: {"requests", "candidates", "tasks": {T: metrics}}},
        "all": {"tasks": {T: metrics}}}`, ready for JSON; see `metrics.task_metrics`. `split` is for
        the caller to set. "all" is over the surfaces reported. A surface lists the tasks that it
        has predictions of, so one whose rows are all null in `T` does not list T.

    Raises:
        UserError: a missing or mistyped column, an empty table, an unreadable file, or a
            probability or label outside [0, 1]; it names the file, the column and the row.
    """
    from recsys.evaluation.fields import field_ece
    from recsys.evaluation.measure import measure
    from recsys.evaluation.rows import PredictionRows
    from recsys.evaluation.slices import segment_names
    from recsys.evaluation.slices import segments as segments_of

    segments = segment_names(segments)
    with PredictionRows(path, tasks, surfaces) as rows:
        cuts = [segments_of([rows], column) for column in segments]
        measured = measure(rows, cuts, buckets=1, top=top)

        def metrics(slicing: str, label: str) -> dict[str, Any]:
            return {
                task: measured.slices[slicing, label, task].metrics()
                for task in rows.tasks
                if (slicing, label, task) in measured.slices
            }

        report: dict[str, Any] = {
            "split": None,
            "surfaces": {
                surface: {
                    "requests": found.get("requests", 0),
                    "candidates": found.get("candidates", 0),
                    "tasks": metrics("surface", surface),
                }
                for surface, found in rows.counts.items()
            },
            "all": {"tasks": metrics("all", "all")},
        }
        if fields:
            report["field_ece"] = {
                column: {task: field_ece(rows, task, column) for task in rows.tasks}
                for column in fields
            }
        if segments:
            report["segments"] = {
                cut.name: {label: {"tasks": metrics(cut.name, label)} for label in cut.labels}
                for cut in cuts
            }
    return report


def _column(name: str, values: Column) -> pa.Array:
    """One column as it is stored."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        values = pa.array(np.ma.getdata(values) if mask is not None else values, mask=mask)
    if name.startswith(LABEL):
        values = values.cast(pa.float32())
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float32()), values)
    if name == "candidate":
        return values.cast(pa.int32())
    # Parquet dictionary-encodes by itself; one plain type lets the parts differ in their values.
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values

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

and the columns named in `evaluation.keep`.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.config.experiment import nearest
from recsys.errors import UserError
from recsys.evaluation.metrics import check_unit_interval, codes, task_metrics
from recsys.files import whole_folder

LABEL = "label."
LOGIT = "logit."
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
        if self.folder.exists() and not self._replace:
            raise UserError(f"{self.folder}: exists; remove it or choose another folder")
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
        older = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.old")
        with self._stack:
            self._flush()
            if not self.rows:
                raise UserError(
                    f"{self.folder}: no row was predicted; check that the split has requests"
                )
            if self.folder.exists():
                # A folder cannot be renamed over another one: the older one steps aside first.
                os.rename(self.folder, older)
        shutil.rmtree(older, ignore_errors=True)

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
) -> dict[str, Any]:
    """Metrics per surface and task of a predictions table.

    One pass reads `surface`, `request_id` and `group`, then one pass a task reads its probability
    and label: memory holds a few numbers a row, however many columns the table has.

    Args:
        path: A folder of Parquet files, or one file.
        tasks: Default: every `T` for which there is a column `label.T`, in that order.
        surfaces: Default: those of the table, by name. A surface given here that has no row is
            reported with 0 rows and no values.

    Returns:
        `{"split": None, "surfaces": {S: {"requests", "candidates", "tasks": {T: metrics}}},
        "all": {"tasks": {T: metrics}}}`, ready for JSON; see `metrics.task_metrics`. `split` is for
        the caller to set. "all" is over the surfaces reported. A surface lists the tasks that it
        has predictions of, so one whose rows are all null in `T` does not list T.

    Raises:
        UserError: a missing or mistyped column, an empty table, an unreadable file, or a
            probability or label outside [0, 1]; it names the file, the column and the row.
    """
    files = _parquet_files(Path(path))
    schema = _common_schema(files, ["surface", "request_id", "group"])
    tasks = _tasks(files[0], schema, tasks)

    surface_of, names, requests, group = _read_keys(files)
    if surfaces is None:
        surfaces = sorted(names)
    # The rows of each surface once, for all tasks: [rows of S] indices.
    rows_of = {
        surface: np.flatnonzero(surface_of == names.index(surface))
        if surface in names
        else np.empty(0, np.int64)
        for surface in surfaces
    }
    report: dict[str, Any] = {
        "split": None,
        "surfaces": {
            surface: {"requests": requests.get(surface, 0), "candidates": len(rows), "tasks": {}}
            for surface, rows in rows_of.items()
        },
        "all": {"tasks": {}},
    }
    everything = None if set(names) <= set(surfaces) else np.concatenate(list(rows_of.values()))
    for task in tasks:
        probability, label = _read_task(files, task)
        for surface, rows in rows_of.items():
            if not len(rows) or probability[rows].count():
                report["surfaces"][surface]["tasks"][task] = task_metrics(
                    probability[rows], label[rows], group[rows]
                )
        all_rows = slice(None) if everything is None else everything
        report["all"]["tasks"][task] = task_metrics(
            probability[all_rows], label[all_rows], group[all_rows]
        )
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


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such predictions table; run `recsys evaluate` to write one")
    files = sorted(p for p in path.glob("*.parquet") if not p.name.startswith((".", "_")))
    if not files:
        raise UserError(f"{path}: has no .parquet file; run `recsys evaluate` to write them")
    return files


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns pyarrow's errors about the content of `path` into a `UserError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not readable as Parquet, it may be truncated: write it again ({reason})"
        ) from None


def _common_schema(files: list[Path], required: list[str]) -> pa.Schema:
    """The first file's schema; every file has the `required` columns and there is a row."""
    rows, schemas = 0, []
    for path in files:
        with _readable(path), pq.ParquetFile(path) as file:
            rows += file.metadata.num_rows
            schemas.append(file.schema_arrow)
        for name in required:
            _require(path, schemas[-1], name)
            found, first = schemas[-1].field(name).type, schemas[0].field(name).type
            if found != first:
                raise UserError(
                    f"{path}: column {name}: is {found}, but {first} in {files[0].name}; "
                    "write all files of a table with one type"
                )
    if not rows:
        where = files[0] if len(files) == 1 else files[0].parent
        raise UserError(f"{where}: the predictions table is empty; predict a split that has rows")
    return schemas[0]


def _require(path: Path, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise UserError(f"{path}: column {name} is missing; {nearest(name, schema.names)}")


def _tasks(path: Path, schema: pa.Schema, tasks: Sequence[str] | None) -> list[str]:
    if tasks is not None:
        return list(tasks)
    found = [name.removeprefix(LABEL) for name in schema.names if name.startswith(LABEL)]
    if not found:
        raise UserError(
            f"{path}: no column label.TASK, so there is nothing to compare predictions with; "
            "predict a table that has labels"
        )
    return found


def _read(files: list[Path], columns: list[str]) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
    """(file, its first row, rows) for these columns only."""
    for path in files:
        row = 0
        with _readable(path), pq.ParquetFile(path) as file:
            for name in columns:
                _require(path, file.schema_arrow, name)
            for batch in file.iter_batches(ROWS_A_ROW_GROUP, columns=columns):
                yield path, row, batch
                row += batch.num_rows


def _read_keys(
    files: list[Path],
) -> tuple[NDArray[np.int64], list[str], dict[str, int], NDArray[np.int64]]:
    """Surface code and group code of each row [N], names of the surfaces, requests of each."""
    parts = []
    for path, row, batch in _read(files, ["surface", "request_id", "group"]):
        for name in ("surface", "request_id"):
            if batch[name].null_count:
                at = row + pc.index(pc.is_null(batch[name]), True).as_py()
                raise UserError(f"{path}: column {name}, row {at}: null; every row needs a value")
        parts.append(batch)
    table = pa.Table.from_batches(parts)
    surface = table["surface"].cast(pa.string()).dictionary_encode().combine_chunks()
    keys = pa.table({"surface": surface, "request_id": table["request_id"]})
    counts = keys.group_by("surface", use_threads=False).aggregate(
        [("request_id", "count_distinct")]
    )
    requests = dict(
        zip(
            counts["surface"].to_pylist(), counts["request_id_count_distinct"].to_pylist(),
            strict=True,
        )
    )  # fmt: skip
    return codes(surface), surface.dictionary.to_pylist(), requests, codes(table["group"])


def _read_task(files: list[Path], task: str) -> tuple[np.ma.MaskedArray, NDArray[np.float32]]:
    """Probability [N], masked where there is none, and label [N], NaN where unknown."""
    probabilities, masks, labels = [], [], []
    for path, row, batch in _read(files, [task, LABEL + task]):
        source = f"{path}: column {task}"
        if not pa.types.is_floating(batch[task].type) and not pa.types.is_null(batch[task].type):
            raise UserError(f"{source}: is {batch[task].type}, not a probability; write floats")
        predicted = batch[task].is_valid().to_numpy(zero_copy_only=False)
        probability = batch[task].to_numpy(zero_copy_only=False)
        if probability.dtype.kind != "f":  # a column of nulls only
            probability = np.full(len(predicted), np.nan, np.float32)
        check_unit_interval(probability, source, "probability", where=predicted, first_row=row)
        probabilities.append(probability)
        masks.append(~predicted)

        source = f"{path}: column {LABEL + task}"
        try:
            column = batch[LABEL + task].cast(pa.float32())
        except pa.ArrowException:
            found = batch[LABEL + task].type
            raise UserError(f"{source}: is {found}, not a label; write 0, 1 or null") from None
        label = column.to_numpy(zero_copy_only=False).astype(np.float32)
        known = ~np.isnan(label)
        check_unit_interval(label, source, "label", where=known, first_row=row)
        labels.append(label)
    probability = np.ma.MaskedArray(np.concatenate(probabilities), np.concatenate(masks))
    return probability, np.concatenate(labels)

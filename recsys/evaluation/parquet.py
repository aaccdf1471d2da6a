"""The Parquet files of a predictions table: which ones, their columns, and where a value is wrong.

Everything here names the file, the column and the row. It runs before a table is read in bulk, and
again, slowly, to find the first bad value once a fast count says that there is one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.config.experiment import nearest
from recsys.errors import UserError
from recsys.evaluation.metrics import check_unit_interval

LABEL = "label."
LOGIT = "logit."
WEIGHT = "weight."
KEYS = ("surface", "request_id", "group")

ROWS_A_BATCH = 131_072


def parquet_files(path: Path) -> list[Path]:
    """The files of the table at `path`, a folder or one file; raises `UserError` if none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such predictions table; run `recsys evaluate` to write one")
    files = sorted(p for p in path.glob("*.parquet") if not p.name.startswith((".", "_")))
    if not files:
        raise UserError(f"{path}: has no .parquet file; run `recsys evaluate` to write them")
    return files


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns pyarrow's errors about the content of `path` into a `UserError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not readable as Parquet, it may be truncated: write it again ({reason})"
        ) from None


def common_schema(files: list[Path], required: Sequence[str] = KEYS) -> pa.Schema:
    """Every column that some file has; all have the `required` ones, and there is a row."""
    rows, found, first = 0, dict[str, pa.Field](), None
    for path in files:
        with readable(path), pq.ParquetFile(path) as file:
            rows += file.metadata.num_rows
            schema = file.schema_arrow
        first = first or schema
        twice = [name for name in schema.names if schema.names.count(name) > 1]
        if twice:
            raise UserError(f"{path}: column {twice[0]}: is there twice; write it once")
        for name in required:
            require(path, schema, name)
            kind, wanted = schema.field(name).type, first.field(name).type
            if kind != wanted:
                raise UserError(
                    f"{path}: column {name}: is {kind}, but {wanted} in {files[0].name}; "
                    "write all files of a table with one type"
                )
        for field in schema:
            found.setdefault(field.name, field)
    if not rows:
        where = files[0] if len(files) == 1 else files[0].parent
        raise UserError(f"{where}: the predictions table is empty; predict a split that has rows")
    return pa.schema(list(found.values()))


def require(path: Path, schema: pa.Schema, name: str) -> None:
    """Raises `UserError` if a file lacks a column."""
    if name not in schema.names:
        raise UserError(f"{path}: column {name} is missing; {nearest(name, schema.names)}")


def tasks_of(path: Path, schema: pa.Schema, tasks: Sequence[str] | None) -> list[str]:
    """`tasks`, or every task that has a column of labels."""
    if tasks is not None:
        return list(tasks)
    found = [name.removeprefix(LABEL) for name in schema.names if name.startswith(LABEL)]
    if not found:
        raise UserError(
            f"{path}: no column label.TASK, so there is nothing to compare predictions with; "
            "predict a table that has labels"
        )
    return found


def check_task_columns(files: list[Path], task: str) -> None:
    """Every file has the task's probability and label, as numbers."""
    for path in files:
        with readable(path):
            schema = pq.read_schema(path)
        require(path, schema, task)
        require(path, schema, LABEL + task)
        kind = schema.field(task).type
        if not pa.types.is_floating(kind) and not pa.types.is_null(kind):
            raise UserError(f"{path}: column {task}: is {kind}, not a probability; write floats")
        kind = schema.field(LABEL + task).type
        number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not number and not pa.types.is_boolean(kind) and not pa.types.is_null(kind):
            raise UserError(
                f"{path}: column {LABEL + task}: is {kind}, not a label; write 0, 1 or null"
            )


def check_weights(files: list[Path], column: str) -> None:
    """Weights are finite numbers above 0, or null, in every file that has the column."""
    for path in files:
        with readable(path):
            schema = pq.read_schema(path)
        kind = schema.field(column).type if column in schema.names else pa.null()
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise UserError(f"{path}: column {column}: is {kind}, not a weight; write numbers")


def raise_for_bad_weight(files: list[Path], column: str) -> NoReturn:
    """Raises `UserError` for the first weight that is not a number above 0."""
    for path, row, batch in _read(files, [column]):
        found = batch[column].cast(pa.float64()).fill_null(1.0).to_numpy(zero_copy_only=False)
        bad = ~((found > 0) & np.isfinite(found))
        if bad.any():
            at = int(np.argmax(bad))
            raise UserError(
                f"{path}: column {column}, row {row + at}: the weight is {found[at]}; write a "
                "number above 0, or null for 1"
            )
    raise AssertionError(f"a bad {column} was counted, but there is none")


def raise_for_nan(files: list[Path], column: str) -> NoReturn:
    """Raises `UserError` for the first NaN of a column."""
    for path, row, batch in _read(files, [column]):
        found = np.isnan(batch[column].cast(pa.float64()).fill_null(0.0))
        if found.any():
            raise UserError(
                f"{path}: column {column}, row {row + int(np.argmax(found))}: is NaN; write the "
                "logit before calibration, or leave the column out"
            )
    raise AssertionError(f"a NaN of {column} was counted, but there is none")


def raise_for_null_key(files: list[Path]) -> NoReturn:
    """Raises `UserError` for the first row without a surface or request."""
    for path, row, batch in _read(files, ["surface", "request_id"]):
        for name in batch.schema.names:
            if batch[name].null_count:
                at = row + pc.index(pc.is_null(batch[name]), True).as_py()
                raise UserError(f"{path}: column {name}, row {at}: null; every row needs a value")
    raise AssertionError("a null was counted, but there is none")


def raise_for_bad_value(files: list[Path], column: str) -> NoReturn:
    """Raises `UserError` for the first value of a probability or label outside [0, 1]."""
    label = column.startswith(LABEL)
    for path, row, batch in _read(files, [column]):
        values = batch[column].cast(pa.float64())
        known = values.is_valid().to_numpy(zero_copy_only=False)
        found = values.to_numpy(zero_copy_only=False)
        if label:
            known &= ~np.isnan(found)
        source, name = f"{path}: column {column}", "label" if label else "probability"
        check_unit_interval(found, source, name, where=known, first_row=row)
    raise AssertionError(f"a bad {column} was counted, but there is none")


def raise_for_broken_file(files: list[Path], reason: str) -> NoReturn:
    """Raises `UserError` for the file that could not be read, for a `reason` that names none."""
    for path in files:
        with readable(path), pq.ParquetFile(path) as file:
            for _ in file.iter_batches(ROWS_A_BATCH):
                pass
    where = files[0] if len(files) == 1 else files[0].parent
    raise UserError(f"{where}: not readable: {reason}")


def _read(files: list[Path], columns: list[str]) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
    """(file, its first row, rows) for these columns only, of the files that have them."""
    for path in files:
        row = 0
        with readable(path), pq.ParquetFile(path) as file:
            if not set(columns) <= set(file.schema_arrow.names):
                continue
            for batch in file.iter_batches(ROWS_A_BATCH, columns=columns):
                yield path, row, batch
                row += batch.num_rows

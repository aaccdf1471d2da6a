"""A predictions table as rows to be streamed, in any order, in bounded memory.

DuckDB reads the files, sorts them on disk where they do not fit, and hands out record batches.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.config.experiment import nearest
from recsys.errors import UserError
from recsys.evaluation import parquet
from recsys.evaluation.parquet import LABEL, LOGIT, WEIGHT
from recsys.sql import WRONG_STATEMENT, first_line, quoted, text

MEMORY = "2GB"
ROWS_A_BATCH = 100_000

# Numbers of a row that every stream may ask for. The unit is what a bootstrap resamples: the group
# (the user); a request without a group is a unit of its own.
SURFACE = "#surface"
UNIT = """hash(CASE WHEN "group" IS NULL THEN request_id::VARCHAR ELSE "group"::VARCHAR END)"""
REQUEST = "hash(request_id::VARCHAR)"


class PredictionRows:
    """A checked predictions table. A context manager: its end removes what was put on disk.

    Args:
        path: A folder of Parquet files, or one file.
        tasks: Default: every `T` for which there is a column `label.T`.
        surfaces: Rows of others are left out. Default: those of the table, by name.
        memory: What DuckDB may use; it sorts on disk beyond that.

    Raises `UserError` for everything that is wrong with the files, columns or values.
    """

    def __init__(
        self,
        path: str | Path,
        tasks: Sequence[str] | None = None,
        surfaces: Sequence[str] | None = None,
        memory: str = MEMORY,
    ) -> None:
        self.path = Path(path)
        self.files = parquet.parquet_files(self.path)
        self.schema = parquet.common_schema(self.files)
        self.tasks = parquet.tasks_of(self.files[0], self.schema, tasks)
        for task in self.tasks:
            parquet.check_task_columns(self.files, task)
            if self.weighted(task):
                parquet.check_weights(self.files, WEIGHT + task)
        self._logits: dict[str, bool] = {}  # whether all rows of a task have them, once looked at
        self._spill = tempfile.mkdtemp(prefix="recsys-spill-")
        try:
            self._database = duckdb.connect(
                config={"memory_limit": memory, "temp_directory": self._spill}
            )
        except duckdb.Error:
            shutil.rmtree(self._spill)
            raise UserError(f"--memory-limit {memory}: write it like 4GB") from None
        listed = ", ".join(text(str(file)) for file in self.files)
        # By name: the files' columns may stand in another order, be all null, or be missing.
        self.source = f"read_parquet([{listed}], union_by_name = true)"
        try:
            with self._reading():
                self._database.execute(f"CREATE VIEW source AS SELECT * FROM {self.source}")
                # Of types that hold the values of all files.
                self.schema = self._database.sql("FROM source LIMIT 0").to_arrow_table().schema
            counts = self._check()
        except BaseException:
            self.close()
            raise
        self.surfaces = list(surfaces) if surfaces is not None else sorted(counts)
        names = ", ".join(text(name) for name in self.surfaces)
        code = f"list_position([{names}]::VARCHAR[], surface::VARCHAR) - 1"
        self._database.execute(
            f'CREATE VIEW rows AS SELECT *, {code} AS "{SURFACE}" FROM source WHERE {code} >= 0'
        )
        self.counts = {name: counts.get(name, {}) for name in self.surfaces}

    def __enter__(self) -> "PredictionRows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database and removes its files."""
        self._database.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    @property
    def rows(self) -> int:
        """Rows of the surfaces."""
        return sum(found.get("candidates", 0) for found in self.counts.values())

    def has(self, surface: str, task: str) -> bool:
        """Whether the surface has a prediction of the task; one without rows has all tasks."""
        found = self.counts[surface]
        return not found or found["predicted"][task] > 0

    def raw(self, task: str) -> str | None:
        """The probability before calibration in SQL, where every row has its logit.

        Where the log kept a share of the negatives it is corrected for that: it is the reciprocal
        of the largest weight of the surface. Raises `UserError` for a NaN.
        """
        if LOGIT + task not in self.schema.names:
            return None
        logit = f"{quoted(LOGIT + task)}::DOUBLE"
        if task not in self._logits:
            # Not in a WHERE: DuckDB passes over row groups by statistics, which know no NaN.
            p = self.probability(task)
            [(bad, missing)] = self.query(
                f"SELECT count(*) FILTER (isnan({logit})), "
                f"count(*) FILTER ({logit} IS NULL AND {p} IS NOT NULL) FROM source"
            )
            if bad:
                parquet.raise_for_nan(self.files, LOGIT + task)
            self._logits[task] = not missing
        if not self._logits[task]:
            return None
        if self.weighted(task):
            shifts = [found["heaviest"][task] if found else 1.0 for found in self.counts.values()]
            listed = ", ".join(repr(math.log(weight)) for weight in shifts)
            logit = f"({logit} - ([{listed}]::DOUBLE[])[{quoted(SURFACE)} + 1])"
        return f"1 / (1 + exp(-{logit}))"

    def weighted(self, task: str) -> bool:
        """Whether rows weigh differently, as where a log kept a share of its negatives."""
        return WEIGHT + task in self.schema.names

    def weight(self, task: str) -> str:
        """What a row weighs, in SQL."""
        return (
            f"coalesce({quoted(WEIGHT + task)}::DOUBLE, 1)" if self.weighted(task) else "1::DOUBLE"
        )

    def probability(self, task: str) -> str:
        """The probability in SQL; its type says how far it can be from 0 and 1."""
        kind = "FLOAT" if self.schema.field(task).type == pa.float32() else "DOUBLE"
        return f"{quoted(task)}::{kind}"

    @staticmethod
    def label(task: str) -> str:
        """The label in SQL, null where unknown."""
        value = f"{quoted(LABEL + task)}::FLOAT"
        return f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"

    def require(self, column: str, what: str) -> None:
        """Raises `UserError` if the table lacks a column that `what` (an option) names."""
        if column not in self.schema.names:
            raise UserError(
                f"{what} {column}: {self.files[0]} has no such column; "
                f"{nearest(column, self.schema.names)} (evaluation.keep adds columns)"
            )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a small answer."""
        with self._reading():
            return self._database.cursor().execute(sql).fetchall()

    def stream(
        self, columns: Mapping[str, str], *, where: str = "true", order: str | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Batches of `columns` (name → SQL) of the rows `where`, ascending by `order`."""
        selected = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in columns.items())
        ordered = f" ORDER BY {order}" if order else ""
        sql = f"SELECT {selected} FROM rows WHERE {where}{ordered}"
        with self._reading():
            cursor = self._database.cursor()
            for batch in cursor.sql(sql).to_arrow_reader(ROWS_A_BATCH):
                yield {
                    name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names
                }

    def _check(self) -> dict[str, dict[str, Any]]:
        """Surface → its requests, candidates and predicted rows a task; raises for bad values."""
        parts = ["count(*)", "count(request_id)"]
        for task in self.tasks:
            value, label = self.probability(task), self.label(task)
            parts.append(f"count({value})")
            parts += [f"count(*) FILTER (NOT ({x} >= 0 AND {x} <= 1))" for x in (value, label)]
            weight = f"({self.weight(task)})::DOUBLE"
            parts.append(f"count(*) FILTER (NOT ({weight} > 0 AND isfinite({weight})))")
            parts.append(f"max({weight})")
        found = self.query(
            f"SELECT surface::VARCHAR, {', '.join(parts)} FROM source GROUP BY 1 ORDER BY 1"
        )
        counts: dict[str, dict[str, Any]] = {}
        for surface, rows, requests, *numbers in found:
            if surface is None or requests < rows:
                parquet.raise_for_null_key(self.files)
            predicted, heaviest = {}, {}
            for t, task in enumerate(self.tasks):
                known, bad, wrong, bad_weight, weight = numbers[5 * t : 5 * t + 5]
                if bad or wrong:
                    parquet.raise_for_bad_value(self.files, task if bad else LABEL + task)
                if bad_weight:
                    parquet.raise_for_bad_weight(self.files, WEIGHT + task)
                predicted[task], heaviest[task] = known, weight
            counts[surface] = {
                "requests": 0,
                "candidates": rows,
                "predicted": predicted,
                "heaviest": heaviest,
            }
        # A bit a position: up to 64 candidates of a request are told apart without comparing rows.
        bit = "1::UBIGINT << (TRY_CAST(candidate::VARCHAR AS BIGINT) & 63)::UBIGINT"
        distinct = f"bit_count(bit_or({bit}))" if "candidate" in self.schema.names else "count(*)"
        requests_of = self.query(
            "SELECT surface, count(*), bool_or(rows != candidates) FROM (SELECT "
            f"surface::VARCHAR AS surface, count(*) AS rows, {distinct} AS candidates FROM source "
            "GROUP BY surface::VARCHAR, request_id) GROUP BY 1"
        )
        for surface, requests, _ in requests_of:
            counts[surface]["requests"] = requests
        if any(unclear for _, _, unclear in requests_of):
            self._check_rows_once()
        return counts

    def _check_rows_once(self) -> None:
        """Raises `UserError` for the first candidate that is in several rows."""
        twice = self.query(
            "SELECT request_id::VARCHAR, candidate::VARCHAR, surface::VARCHAR, count(*) "
            "FROM source WHERE candidate IS NOT NULL "
            "GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
        )
        for request, candidate, surface, count in twice:
            raise UserError(
                f"{self.path}: request_id {request}, candidate {candidate} of surface {surface}: "
                f"is in {count} rows; write it once, or leave the column candidate out to count "
                "every row"
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise UserError(f"{self.path}: {first_line(error)}; raise --memory-limit") from None
        except WRONG_STATEMENT:
            raise
        except duckdb.Error as error:
            parquet.raise_for_broken_file(self.files, first_line(error))


def integers(values: NDArray[Any]) -> NDArray[np.int64]:
    """Codes of a stream, -1 where SQL had null (which arrives as NaN)."""
    if values.dtype.kind == "f":
        return np.where(np.isnan(values), -1, values).astype(np.int64)
    return values.astype(np.int64)

"""What is wrong with a value of a request table, and where it stands."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.errors import UserError


@dataclass(frozen=True)
class Fault:
    """One kind of wrong value in one column of one row group."""

    file: str
    row_group: int
    column: str
    value: Any  # the first offending one
    count: int
    problem: str
    fix: str

    def __str__(self) -> str:
        value = "null" if self.value is None else repr(self.value)
        return (
            f"{self.file}: row group {self.row_group}: column {self.column}: "
            f"{value} {self.problem}; {self.fix}"
        )


class UnknownIds:
    """Counts the ids that no table knows, by column: `[unknown, all]`, nulls left out."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}

    def add(self, column: str, ids: pa.Array, rows: np.ndarray) -> None:
        """Counts `ids`, which read `rows` of their table."""
        count = self.counts.setdefault(column, [0, 0])
        known = int(np.count_nonzero(rows))
        count[0] += len(ids) - ids.null_count - known
        count[1] += len(ids) - ids.null_count


class UnseenSurfaces:
    """Counts the requests of surfaces that the model was not trained on, which are scored as those
    of `data.fallback`."""

    def __init__(self) -> None:
        self.requests = 0
        self.names: set[str | None] = set()  # None: null

    def add(self, surfaces: pa.Array) -> None:
        """Counts the surface of each request."""
        if len(surfaces):
            self.requests += len(surfaces)
            self.names.update(surfaces.unique().to_pylist())

    def document(self) -> dict[str, int]:
        """`{"requests", "surfaces"}`, how many of each."""
        return {"requests": self.requests, "surfaces": len(self.names)}


class Place:
    """A row group that is being read, and what to do with its faults.

    With `collect`, faults are appended to that list; without, the first one is raised. With
    `unknown`, an id beyond its table is no fault: it reads row 0 and is counted, as in serving.
    With `unseen` and `data.fallback`, nor is a surface that the configuration does not have.
    """

    def __init__(
        self,
        file: str,
        row_group: int,
        collect: list[Fault] | None = None,
        unknown: UnknownIds | None = None,
        unseen: UnseenSurfaces | None = None,
    ) -> None:
        self.file = file
        self.row_group = row_group
        self.collect = collect
        self.unknown = unknown
        self.unseen = unseen

    def report(
        self, column: str, values: pa.Array, wrong: np.ndarray, problem: str, fix: str
    ) -> None:
        """Reports `values[wrong]`; nothing if none is wrong. Raises `UserError` if not collecting.

        `wrong` is a mask of the length of `values`.
        """
        count = int(np.count_nonzero(wrong))
        if not count:
            return
        value = values[int(np.argmax(wrong))].as_py()
        fault = Fault(self.file, self.row_group, column, value, count, problem, fix)
        if self.collect is None:
            raise UserError(str(fault))
        self.collect.append(fault)

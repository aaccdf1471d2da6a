"""DuckDB: opened for a table, what statements are written with, whose fault an error of it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from recsys.errors import UserError

# Errors of a statement. Every other one is of the data, and the user's to mend.
WRONG_STATEMENT = (
    duckdb.InternalException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
)


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str | Path) -> str:
    """A string in SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def first_line(error: BaseException) -> str:
    """What went wrong, without DuckDB's hints."""
    return " ".join(str(error).split("\n")[0].split())


@contextmanager
def opened(
    table: str | Path, memory_limit: str | None, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in memory; its errors about the data of `table` become a `UserError`."""
    with duckdb.connect() as database:
        if memory_limit is not None:
            try:
                database.execute(f"SET memory_limit = {text(memory_limit)}")
            except duckdb.Error:
                raise UserError(f"memory limit {memory_limit}: write it like 4GB") from None
        if threads is not None:
            database.execute(f"SET threads = {int(threads)}")
        try:
            yield database
        except duckdb.OutOfMemoryException as error:
            raise UserError(
                f"{table}: does not fit in the memory limit: raise it or leave it out "
                f"({first_line(error)})"
            ) from None
        except WRONG_STATEMENT:
            raise
        except duckdb.Error as error:
            raise UserError(f"{table}: not readable: {first_line(error)}") from None

"""What statements for DuckDB are written with, and whose fault an error of it is."""

from pathlib import Path

import duckdb

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

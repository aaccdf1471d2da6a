"""Whether two tables are predictions of the same rows, which a paired comparison needs."""

from dataclasses import dataclass

from recsys.errors import UserError
from recsys.evaluation.rows import PredictionRows
from recsys.sql import text

ROW = "request_id::VARCHAR, candidate::BIGINT"


@dataclass(frozen=True)
class Common:
    """What two tables have in common."""

    surfaces: list[str]
    tasks: list[str]
    everything: bool  # whether neither has a surface that the other lacks
    notes: list[str]


def common_rows(one: PredictionRows, other: PredictionRows) -> Common:
    """The surfaces and tasks on which the tables can be compared.

    Raises `UserError` if a surface that both have has other rows, groups or labels in one of them;
    it names the first row. Takes one pass of each: rows are compared by sums of 64-bit hashes.
    """
    for table in (one, other):
        if "candidate" not in table.schema.names:
            raise UserError(
                f"{table.files[0]}: column candidate is missing; it tells the rows of a request "
                "apart, and rows must be matched to be compared"
            )
    tasks = [task for task in one.tasks if task in other.tasks]
    if not tasks:
        raise UserError(
            f"{other.path}: has the tasks {', '.join(other.tasks)}, {one.path} has "
            f"{', '.join(one.tasks)}: none in common, so there is nothing to compare"
        )
    ours, theirs = _sums(one, tasks), _sums(other, tasks)
    surfaces = [name for name in one.surfaces if name in ours and name in theirs]
    if not surfaces:
        raise UserError(
            f"{other.path}: has the surfaces {', '.join(other.surfaces)}, {one.path} has "
            f"{', '.join(one.surfaces)}: none in common, so there is nothing to compare"
        )
    for surface in surfaces:
        for at, what in enumerate(["rows", "groups", *(f"labels of {task}" for task in tasks)]):
            if ours[surface][at] != theirs[surface][at]:
                _explain(one, other, surface, what, tasks)
    notes = []
    for table, mine, rest in ((one, ours, theirs), (other, theirs, ours)):
        alone = [name for name in mine if name not in rest]
        if alone:
            notes.append(f"only {table.path} has {', '.join(alone)}: not compared")
        more = [task for task in table.tasks if task not in tasks]
        if more:
            notes.append(f"only {table.path} has {', '.join(more)}: not compared")
    return Common(surfaces, tasks, set(ours) == set(theirs), notes)


def _sums(table: PredictionRows, tasks: list[str]) -> dict[str, tuple]:
    """Surface → (rows and their hash, hash of groups, hash of the labels of each task)."""
    group = f'hash({ROW}, "group"::VARCHAR)'
    parts = [f"(count(*), sum(hash({ROW})::HUGEINT))", f"sum({group}::HUGEINT)"]
    parts += [f"sum(hash({ROW}, {table.label(task)})::HUGEINT)" for task in tasks]
    found = table.query(f"SELECT surface::VARCHAR, {', '.join(parts)} FROM rows GROUP BY 1")
    return {surface: tuple(sums) for surface, *sums in found}


def _explain(
    one: PredictionRows, other: PredictionRows, surface: str, what: str, tasks: list[str]
) -> None:
    """Raises `UserError` that names the first row that differs."""
    label = next((task for task in tasks if what == f"labels of {task}"), None)
    columns = [ROW]
    if what == "groups":
        columns.append('"group"::VARCHAR')
    if label:
        columns.append(one.label(label))
    selected = ", ".join(columns)
    for table, rest in ((other, one), (one, other)):
        where = f"WHERE surface = {text(surface)}"
        alone = (
            f"SELECT {selected} FROM rows {where} "
            f"EXCEPT ALL SELECT {selected} FROM {rest.source} {where}"
        )
        found = table.query(f"SELECT *, count(*) OVER () FROM ({alone}) ORDER BY ALL LIMIT 1")
        if found:
            request, candidate, *_, count = found[0]
            row = f"request_id {request}, candidate {candidate}"
            if what == "rows":
                raise UserError(
                    f"{table.path}: surface {surface}: {count:,} rows are not in {rest.path}, for "
                    f"example {row}; predict the same rows with both"
                )
            column = f"column label.{label}" if label else "column group"
            raise UserError(
                f"{table.path}: {column}, surface {surface}: differs from {rest.path} in "
                f"{count:,} rows, for example {row}; predict the same table with both"
            )
    raise AssertionError(f"{what} of {surface} differ in their sums, but no row does")

"""Whether two tables are predictions of the same rows, which a paired comparison needs."""

from dataclasses import dataclass
from typing import Any, NoReturn

from recsys.errors import UserError
from recsys.evaluation.parquet import LABEL, WEIGHT
from recsys.evaluation.rows import PredictionRows
from recsys.sql import text

ROW = "request_id::VARCHAR, candidate::BIGINT"


@dataclass(frozen=True)
class Common:
    """What two tables have in common."""

    surfaces: list[str]
    tasks: list[str]
    pooled: list[str]  # the tasks that both predict on the same surfaces
    notes: list[str]


def common_rows(one: PredictionRows, other: PredictionRows) -> Common:
    """The surfaces and tasks on which the tables can be compared.

    Raises `UserError` if a surface that both have has other rows, groups, labels, weights or
    predicted rows in one of them; it names the first row. Takes one pass of each: rows are compared
    by sums of 64-bit hashes.
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
    notes, pooled = [], dict.fromkeys(tasks, set(ours) == set(theirs))
    for surface in surfaces:
        for task, column in ours[surface]:
            # A task that one of them does not predict here is in no difference of the surface.
            alone = [table for table in (one, other) if task and not table.has(surface, task)]
            if not alone and ours[surface][task, column] != theirs[surface][task, column]:
                _explain(one, other, surface, task, column)
            if len(alone) == 1 and column == task:
                pooled[task] = False
                notes.append(f"{alone[0].path} has no {task} of {surface}: not compared")
    for table, mine, rest in ((one, ours, theirs), (other, theirs, ours)):
        only = [name for name in mine if name not in rest]
        if only:
            notes.append(f"only {table.path} has {', '.join(only)}: not compared")
        more = [task for task in table.tasks if task not in tasks]
        if more:
            notes.append(f"only {table.path} has {', '.join(more)}: not compared")
    return Common(surfaces, tasks, [task for task in tasks if pooled[task]], notes)


def _columns(table: PredictionRows, task: str) -> dict[str, tuple[str, str]]:
    """What must be equal for a task: column → (value, of which rows) in SQL.

    Without a task: the rows, by no column, and their groups.
    """
    if not task:
        return {"": ("true", "true"), "group": ('"group"::VARCHAR', "true")}
    p, y = table.probability(task), table.label(task)
    known = f"({y}) IS NOT NULL"
    return {
        LABEL + task: (y, "true"),
        task: (f"({p}) IS NULL", known),
        # Systems may write other floats.
        WEIGHT + task: (f"({table.weight(task)})::FLOAT", f"{known} AND ({p}) IS NOT NULL"),
    }


def _sums(table: PredictionRows, tasks: list[str]) -> dict[str, dict[tuple[str, str], Any]]:
    """Surface → (task, column) → the sum of the hashes of its rows and values."""
    names, parts = [], []
    for task in ("", *tasks):
        for column, (value, where) in _columns(table, task).items():
            names.append((task, column))
            parts.append(f"sum(hash({ROW}, {value})::HUGEINT) FILTER ({where})")
    found = table.query(f"SELECT surface::VARCHAR, {', '.join(parts)} FROM rows GROUP BY 1")
    return {surface: dict(zip(names, sums, strict=True)) for surface, *sums in found}


def _explain(
    one: PredictionRows, other: PredictionRows, surface: str, task: str, column: str
) -> NoReturn:
    """Raises `UserError` that names the first row that differs."""
    weighted = column == WEIGHT + task
    for table, rest in ((other, one), (one, other)):
        (value, where), (theirs, there) = (_columns(t, task)[column] for t in (table, rest))
        own = f"surface::VARCHAR = {text(surface)}"
        alone = (
            f"SELECT {ROW}, {value} FROM rows WHERE {own} AND {where} "
            f"EXCEPT ALL SELECT {ROW}, {theirs} FROM {rest.source} WHERE {own} AND {there}"
        )
        if column == task:  # that it is null says more than that it is not
            alone = f"SELECT * FROM ({alone}) AS found(request, candidate, lacks) WHERE lacks"
        found = table.query(f"SELECT *, count(*) OVER () FROM ({alone}) ORDER BY ALL LIMIT 1")
        if not found:
            continue
        request, candidate, shown, count = found[0]
        row = f"request_id {request}, candidate {candidate}"
        if not column:
            raise UserError(
                f"{table.path}: surface {surface}: {count:,} rows are not in {rest.path}, for "
                f"example {row}; predict the same rows with both"
            )
        where = f"{table.path}: column {column}, surface {surface}: "
        if column == task:
            raise UserError(
                f"{where}null in {count:,} rows that {rest.path} has a probability of, for "
                f"example {row}; predict the same rows with both"
            )
        if weighted and not (table.weighted(task) and rest.weighted(task)):
            lacks, has = (rest, table) if table.weighted(task) else (table, rest)
            raise UserError(
                f"{lacks.path}: has no column {column}, so its rows weigh 1, but {count:,} of "
                f"surface {surface} weigh otherwise in {has.path}, for example {row}; write that "
                f"table's {column} into this one, by request_id and candidate, and probabilities "
                "for the traffic before negatives were dropped"
            )
        value = f", which weighs {shown:g} here" if weighted else ""
        same = (
            "write the same weights into both" if weighted else "predict the same table with both"
        )
        raise UserError(
            f"{where}differs from {rest.path} in {count:,} rows, for example {row}{value}; {same}"
        )
    raise AssertionError(f"{column or 'rows'} of {surface} differ in their sums, but no row does")

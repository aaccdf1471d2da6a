"""Field-ECE over any column, of as many values as it has."""

from recsys.evaluation.rows import PredictionRows
from recsys.sql import quoted


def field_ece(rows: PredictionRows, task: str, column: str, *, raw: bool = False) -> float | None:
    """Field-ECE `Σ_v n_v/N · |ȳ_v - p̄_v|` over the values v of a column; see `metrics.field_ece`.

    `raw` takes the probabilities before calibration. None without rows, or without raw ones.
    """
    rows.require(column, "--field")
    p = rows.raw(task) if raw else f"({rows.probability(task)})::DOUBLE"
    if p is None:
        return None
    y, w = rows.label(task), rows.weight(task)
    known = f"({rows.probability(task)}) IS NOT NULL AND ({y}) IS NOT NULL"
    [(gap, count)] = rows.query(
        f"SELECT sum(abs(gap)), sum(n) FROM (SELECT sum({w} * (({y})::DOUBLE - ({p}))) AS gap, "
        f"sum({w}) AS n FROM rows WHERE {known} GROUP BY {quoted(column)})"
    )
    return float(gap) / float(count) if count else None

"""What evaluation groups by and carries along."""

from typing import Annotated

from pydantic import Field

from recsys.config.section import Section


class EvaluationConfig(Section):
    """`evaluation:` – the predictions table and its metrics."""

    group: str | None = Field(
        None, description="Column of the request or candidate that groups GAUC, e.g. user_id"
    )
    keep: tuple[str, ...] = Field(
        (), description="Columns of the request or candidate copied to the predictions table"
    )
    hit_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 5, 10), description="The k of HIT@k, the share of positives in a request's top k"
    )
    fields: tuple[str, ...] = Field(
        (), description="Kept columns over which Field-ECE is reported, besides the surface"
    )
    segments: tuple[str, ...] = Field(
        (), description="Kept columns by which metrics are cut: values, or ranges of a number"
    )
    batch_candidates: int = Field(8192, ge=1, description="Most candidates scored at once")

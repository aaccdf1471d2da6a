"""What evaluation groups by and carries along."""

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
    batch_candidates: int = Field(8192, ge=1, description="Most candidates scored at once")

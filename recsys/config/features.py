"""Embedding tables and the features that read them."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from recsys.config.section import NullsLeftOut, Section

Level = Literal["request", "candidate", "history"]
Transform = Literal["none", "log1p", "standard", "rank"]


class TableConfig(Section):
    """`tables.NAME:` – one embedding table.

    Row 0 is reserved for an absent or unknown id, so a table of `rows` ids stores `rows + 1` rows.
    """

    rows: int = Field(ge=1, description="Number of ids the table can tell apart")
    dim: int = Field(ge=4, description="Width of a row; FBGEMM wants a multiple of 4")
    encode: Literal["none", "hash", "vocab"] = Field(
        "none",
        description="How an id becomes a row. none: the id itself, 0 ≤ id < rows (int64 only). "
        "hash: by hashing, collisions accepted. vocab: the most frequent ids of the train split.",
    )
    min_count: int = Field(
        1, ge=1, description="vocab only: ids seen less often than this read the unknown row"
    )

    dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32",
        description="What a weight is stored as in training; the optimizer's state is fp32. FBGEMM "
        "trains bf16 on CUDA only",
    )
    init_std: float | None = Field(
        None,
        gt=0,
        description="Rows start normal with this standard deviation. Default: uniform within "
        "±1/√(rows + 1). About 0.25 helps small tables whose rows are multiplied with each other",
    )

    @field_validator("dim")
    @classmethod
    def _multiple_of_four(cls, dim: int) -> int:
        if dim % 4:
            raise ValueError(f"must be a multiple of 4, is {dim}: use {dim + 4 - dim % 4}")
        return dim


class IdFeature(Section):
    """`{id: TABLE}` – one id, or with `pooling` a list of ids whose rows are pooled."""

    id: str = Field(description="The table whose rows this feature reads")
    pooling: Literal["sum", "mean"] | None = Field(
        None, description="For a column that is a list of ids: how their rows are pooled"
    )
    required: bool = Field(False, description="A null is an error and not an absent id")
    surfaces: tuple[str, ...] | None = Field(
        None,
        description="Surfaces that have this feature; it then bypasses the trunk and feeds only "
        "the tower modules that name it. Default: all, and it feeds the trunk.",
    )


class NumberFeature(Section):
    """`{number: TRANSFORM}` – a number, given to the model under one or more transforms.

    none: as it is. standard: (x − mean) / std, clipped to ±4. log1p: sign(x)·log(1 + |x|), then
    standardised and clipped likewise. rank: the share of train values below x, scaled to [−1, 1].
    A null becomes 0 under every transform and sets a missing indicator. All is fitted on the train
    split.
    """

    number: tuple[Transform, ...] = Field(
        min_length=1, description="One transform, or a list of them: each is one input"
    )
    required: bool = Field(False, description="A null is an error; there is no missing indicator")
    surfaces: tuple[str, ...] | None = Field(None, description="As of an id feature")

    @field_validator("number", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def _kind(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return next((kind for kind in ("id", "number") if kind in value), None)
    if isinstance(value, IdFeature):
        return "id"
    return "number" if isinstance(value, NumberFeature) else None


Feature = Annotated[
    Annotated[IdFeature, Tag("id")] | Annotated[NumberFeature, Tag("number")],
    Discriminator(
        _kind,
        custom_error_type="feature_kind",
        custom_error_message="a feature is {id: TABLE} or {number: TRANSFORM}",
    ),
]


class HistoryConfig(Section):
    """`features.history:` – what the user did before the request, oldest first."""

    length: int = Field(50, ge=1, description="Latest events kept of each request")
    fields: Annotated[dict[str, Feature], NullsLeftOut] = Field(
        min_length=1, description="Of each event; single-valued"
    )

    @model_validator(mode="after")
    def _fields_are_single_and_shared(self) -> "HistoryConfig":
        for name, feature in self.fields.items():
            if isinstance(feature, IdFeature) and feature.pooling:
                raise ValueError(f"field {name}: an event has one id a field; remove `pooling`")
            if feature.surfaces is not None:
                raise ValueError(f"field {name}: the history is shared; remove `surfaces`")
        return self


class FeaturesConfig(Section):
    """`features:` – three lists: of the request, of each candidate, of each past event.

    A feature that is null is left out: `--set features.request.user_id=null` takes one away.
    """

    request: Annotated[dict[str, Feature], NullsLeftOut] = Field(
        default_factory=dict, description="Columns of the request: user and context"
    )
    history: HistoryConfig | None = Field(None, description="Fields of the `history` structs")
    candidate: Annotated[dict[str, Feature], NullsLeftOut] = Field(
        default_factory=dict, description="Fields of the `candidates` structs; at least one"
    )

    def __iter__(self) -> Iterator[tuple[Level, str, IdFeature | NumberFeature]]:  # type: ignore[override]
        """Every feature as (level, name, feature), in the order of the configuration."""
        for name, feature in self.request.items():
            yield "request", name, feature
        for name, feature in self.candidate.items():
            yield "candidate", name, feature
        for name, feature in (self.history.fields if self.history else {}).items():
            yield "history", name, feature

    @model_validator(mode="after")
    def _names_are_unique(self) -> "FeaturesConfig":
        for name in self.request:
            if name in self.candidate:
                raise ValueError(
                    f"two features are named {name}, in request and in candidate: rename one column"
                )
        return self

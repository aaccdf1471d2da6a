"""The base of every section of the configuration."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of the configuration: unknown keys and numbers that are not finite are refused, and
    nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Widths = tuple[Annotated[int, Field(ge=1)], ...]  # of the layers of an MLP


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if each is not None}
    return value


# On a map from names: an entry that is null is left out, so that `--set features.request.x=null`
# takes away one feature.
NullsLeftOut = BeforeValidator(_without_nulls)

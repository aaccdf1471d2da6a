"""Surfaces, their tasks and their tower trees."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recsys.config.names import TaskName
from recsys.config.section import Section, Widths


class ModuleConfig(BaseModel):
    """`tower.modules[]:` – a module fused into this surface's tower only.

    `class` is a built-in (`mlp`, `low_rank_cross`, `history_attention`) or the dotted path of an
    `nn.Module` on the Python path. `inputs` are declared features, `history` or `trunk`. All other
    keys go to its constructor as they are.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    class_: str = Field(alias="class", description="Built-in name or dotted path")
    inputs: tuple[str, ...] = Field(
        min_length=1, description="Features, `history` or `trunk`; passed by name"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's own keyword arguments."""
        return dict(self.model_extra or {})


class TowerConfig(Section):
    """`surfaces.NAME.tower:` – a stem shared by the surface's tasks, then a branch a task."""

    stem: Widths = Field((128,), description="Widths of the stem's layers")
    branches: dict[str, Widths] = Field(
        default_factory=dict, description="Task → widths of its own layers after the stem"
    )
    modules: tuple[ModuleConfig, ...] = Field(
        (), description="Late-fusion modules, added to the stem's input"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="After each layer of stem and branches")


class SurfaceConfig(Section):
    """`surfaces.NAME:` – a product surface: which tasks it has, what it weighs, its tower.

    A segment with few rows needs no tower: with `tower_of` it is, to trunk and tower, the surface
    that it names, and only what follows the tower is its own.
    """

    tasks: dict[TaskName, Annotated[float, Field(ge=0)]] = Field(
        min_length=1, description="Tasks with their loss weights; a list means weight 1 each"
    )
    weight: float = Field(1.0, ge=0, description="Weight of the surface in the loss")
    tower: TowerConfig = Field(TowerConfig(), description="Its tower tree")
    tower_of: str | None = Field(
        None, description="Surface whose tower its rows go through; it then has none of its own"
    )
    negative_sampling: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="Task → share of the negatives that its log kept. Probabilities are corrected "
        "for it, and metrics weight a negative by 1 / share",
    )
    request_sampling: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of its requests that an epoch trains on, drawn anew for each epoch; "
        "whole requests, so that no probability changes",
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _list_means_weight_one(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1.0) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_tower(self) -> "SurfaceConfig":
        if self.tower_of is not None and self.tower != TowerConfig():
            raise ValueError("has both tower and tower_of; remove one of them")
        return self

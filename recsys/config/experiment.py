"""The whole configuration of one experiment, and what must hold across its sections."""

from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations
from typing import Annotated

from pydantic import Field, model_validator

from recsys.config.data import DataConfig
from recsys.config.evaluation import EvaluationConfig
from recsys.config.export import ExportConfig
from recsys.config.features import FeaturesConfig, IdFeature, TableConfig
from recsys.config.model import ModelConfig
from recsys.config.names import SurfaceName, TableName
from recsys.config.section import NullsLeftOut, Section
from recsys.config.sharding import ShardingConfig, is_pattern
from recsys.config.surfaces import SurfaceConfig
from recsys.config.training import TrainingConfig

# Columns of the request table that are not features.
RESERVED_COLUMNS = frozenset({"request_id", "time", "history", "candidates"})
# What a tower module may read besides features.
TRUNK_INPUTS = ("trunk", "history")


def nearest(name: str, known: object) -> str:
    """`"; did you mean X?"` if something known looks like `name`, else the known names."""
    names = [str(k) for k in known]  # type: ignore[attr-defined]
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else "none is declared"


class Config(Section):
    """One experiment. Field names are the top-level keys of the YAML file."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Of the run: `runs/NAME` by default"
    )
    data: DataConfig = Field(description="Where the request tables are")
    tables: Annotated[dict[TableName, TableConfig], NullsLeftOut] = Field(
        description="Embedding tables; one that is null is left out"
    )
    features: FeaturesConfig = Field(description="Inputs of the model")
    surfaces: dict[SurfaceName, SurfaceConfig] = Field(min_length=1, description="Product surfaces")
    model: ModelConfig = Field(ModelConfig(), description="The shared trunk")
    training: TrainingConfig = Field(TrainingConfig(), description="Optimisation and the run")
    sharding: ShardingConfig = Field(ShardingConfig(), description="Constraints for the planner")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Predictions table")
    export: ExportConfig = Field(ExportConfig(), description="Artefacts of single surfaces")

    @cached_property
    def active_surfaces(self) -> dict[str, SurfaceConfig]:
        """The surfaces that the model has: all, or those of `data.surfaces`."""
        chosen = self.data.surfaces or tuple(self.surfaces)
        return {name: surface for name, surface in self.surfaces.items() if name in chosen}

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all active surfaces, each once, in order of first appearance."""
        surfaces = self.active_surfaces.values()
        return tuple(dict.fromkeys(task for surface in surfaces for task in surface.tasks))

    @property
    def surfaces_with_towers(self) -> tuple[str, ...]:
        """Those of the active surfaces that the trunk tells apart: they share nobody's tower."""
        return tuple(name for name, one in self.active_surfaces.items() if one.tower_of is None)

    def tower_name(self, surface: str) -> str:
        """The surface whose tower the rows of `surface` go through."""
        return self.surfaces[surface].tower_of or surface

    @model_validator(mode="after")
    def _axis(self) -> "Config":
        if self.data.axis in RESERVED_COLUMNS:
            raise ValueError(f"data.axis: {self.data.axis} is a column of its own; name another")
        known = (*self.surfaces, *self.data.elsewhere)
        if self.data.fallback is not None and self.data.fallback not in known:
            raise ValueError(
                f"data.fallback: no surface {self.data.fallback}; "
                f"{nearest(self.data.fallback, self.surfaces)}"
            )
        return self

    @model_validator(mode="after")
    def _tower_of(self) -> "Config":
        for name, surface in self.surfaces.items():
            if surface.tower_of is None:
                continue
            where, owner = f"surfaces.{name}.tower_of", self.surfaces.get(surface.tower_of)
            with_towers = [each for each, one in self.surfaces.items() if one.tower_of is None]
            if owner is None or owner.tower_of is not None:
                raise ValueError(
                    f"{where}: {surface.tower_of} is no surface with a tower; "
                    f"{nearest(surface.tower_of, with_towers)}"
                )
            if self.model.towers == "shared":
                raise ValueError(f"{where}: every tower is shared with model.towers: shared")
            for task in surface.tasks:
                if task not in owner.tasks:
                    raise ValueError(
                        f"surfaces.{name}.tasks: {task} is no task of {surface.tower_of}, whose "
                        f"tower it shares; its tasks: {', '.join(owner.tasks)}"
                    )
            if name in self.active_surfaces and surface.tower_of not in self.active_surfaces:
                raise ValueError(
                    f"data.surfaces: {name} shares the tower of {surface.tower_of}; "
                    f"add {surface.tower_of}"
                )
        return self

    @model_validator(mode="after")
    def _active_surfaces(self) -> "Config":
        for name in self.data.surfaces or ():
            if name not in self.surfaces:
                raise ValueError(
                    f"data.surfaces: no surface {name}; {nearest(name, self.surfaces)}"
                )
        return self

    @model_validator(mode="after")
    def _features_and_tables(self) -> "Config":
        used = set()
        for level, name, feature in self.features:
            where = f"features.{level}.{name}"
            if level != "history" and name in {*RESERVED_COLUMNS, self.data.axis, *TRUNK_INPUTS}:
                raise ValueError(f"{where}: {name} is a reserved name; rename the column")
            if level == "candidate" and name in self.tasks:
                raise ValueError(f"{where}: {name} is a task's label and may not be an input")
            if isinstance(feature, IdFeature):
                if feature.id not in self.tables:
                    raise ValueError(
                        f"{where}: no table {feature.id}; {nearest(feature.id, self.tables)}"
                    )
                used.add(feature.id)
            for surface in feature.surfaces or ():
                if surface not in self.surfaces:
                    raise ValueError(
                        f"{where}: no surface {surface}; {nearest(surface, self.surfaces)}"
                    )
        for table in self.tables:
            if table not in used:
                raise ValueError(f"tables.{table}: no feature uses this table; remove it")
        if not any(level == "candidate" for level, *_ in self.features):
            raise ValueError("features.candidate: no feature; a candidate needs at least one")
        return self

    @model_validator(mode="after")
    def _towers(self) -> "Config":
        declared = {**self.features.request, **self.features.candidate}
        read: set[tuple[str, str]] = set()
        for name, surface in self.surfaces.items():
            for task in surface.tower.branches:
                if task not in surface.tasks:
                    raise ValueError(
                        f"surfaces.{name}.tower.branches.{task}: not a task of this surface; "
                        f"{nearest(task, surface.tasks)}"
                    )
            owner = self.surfaces[self.tower_name(name)]
            for index, module in enumerate(owner.tower.modules):
                where = f"surfaces.{self.tower_name(name)}.tower.modules[{index}].inputs"
                for column in module.inputs:
                    if column == "history" and not (self.features.history and self.model.sequence):
                        raise ValueError(
                            f"{where}: history needs features.history and model.sequence"
                        )
                    if column in TRUNK_INPUTS:
                        continue
                    if column not in declared:
                        raise ValueError(
                            f"{where}: no feature {column}; "
                            f"{nearest(column, [*declared, *TRUNK_INPUTS])}"
                        )
                    only = declared[column].surfaces
                    if only is not None and name not in only:
                        raise ValueError(
                            f"{where}: {column} exists on {', '.join(only)} only, not on {name}"
                        )
                    read.add((name, column))
        for column, feature in declared.items():
            for name in feature.surfaces or ():
                if (name, column) not in read:
                    raise ValueError(
                        f"surfaces.{name}: nothing reads {column}, a feature of this surface only; "
                        f"name it in surfaces.{name}.tower.modules, or drop `surfaces` from the "
                        "feature so that the trunk reads it"
                    )
        return self

    @model_validator(mode="after")
    def _negative_sampling(self) -> "Config":
        for name, surface in self.surfaces.items():
            for task in surface.negative_sampling:
                if task not in surface.tasks:
                    raise ValueError(
                        f"surfaces.{name}.negative_sampling.{task}: not a task of this surface; "
                        f"{nearest(task, surface.tasks)}"
                    )
        return self

    @model_validator(mode="after")
    def _folders_of_train(self) -> "Config":
        train, overlap = self.data.folders("train"), self.data.overlap
        if any(overlap(one, other) for one, other in combinations(train, 2)):
            raise ValueError(f"data.train: {list(train)} names a folder twice; name each once")
        for folder in train:
            if overlap(folder, self.data.test):
                raise ValueError(f"data.train: {folder} has rows of the test split; leave it out")
            monitor = self.training.early_stopping.monitor
            if monitor != "none" and overlap(folder, self.data.valid):
                raise ValueError(
                    f"data.train: {folder} has rows of the valid split, which "
                    f"training.early_stopping looks at, by {monitor}; "
                    "set training.early_stopping.monitor: none"
                )
        return self

    @model_validator(mode="after")
    def _surfaces_of_the_trunk(self) -> "Config":
        known = self.model.surfaces or tuple(self.active_surfaces)
        for name in map(self.tower_name, self.active_surfaces):
            if name not in known:
                raise ValueError(
                    f"model.surfaces: {name} is missing; name every surface that is trained"
                )
        return self

    @model_validator(mode="after")
    def _shared_tower(self) -> "Config":
        if self.model.towers == "shared":
            for name, surface in self.surfaces.items():
                if surface.tower.modules:
                    raise ValueError(
                        f"surfaces.{name}.tower.modules: impossible with model.towers: shared"
                    )
        return self

    @model_validator(mode="after")
    def _peers(self) -> "Config":
        declared = {**self.features.request, **self.features.candidate}
        for name in self.model.gates.ppnet:
            feature = declared.get(name)
            if not isinstance(feature, IdFeature) or feature.surfaces:
                shared = [
                    n for n, f in declared.items() if isinstance(f, IdFeature) and not f.surfaces
                ]
                raise ValueError(
                    f"model.gates.ppnet: {name} is no id feature of all surfaces; "
                    f"{nearest(name, shared)}"
                )
        if self.model.towers == "star":
            if self.model.gates.ppnet:
                raise ValueError("model.gates.ppnet: impossible with model.towers: star")
            (first, stem), *others = [
                (name, self.surfaces[name].tower.stem) for name in self.surfaces_with_towers
            ]
            for name, other in others:
                if other != stem:
                    raise ValueError(
                        f"surfaces.{name}.tower.stem: {list(other)}, but {list(stem)} on {first}; "
                        "with model.towers: star all stems have the same widths"
                    )
        return self

    @model_validator(mode="after")
    def _kept_columns(self) -> "Config":
        segment = () if self.data.axis == "surface" else ("surface",)
        for name in self.evaluation.keep:
            if name in ("candidate", "group", *segment, *self.tasks):
                raise ValueError(
                    f"evaluation.keep: {name}: the predictions table has a column of that name, "
                    "with other contents; rename yours"
                )
        return self

    @model_validator(mode="after")
    def _constraints(self) -> "Config":
        for table in self.sharding.constraints:
            if table in self.tables:
                continue
            where = f"sharding.constraints.{table}"
            if not is_pattern(table):
                raise ValueError(f"{where}: no such table; {nearest(table, self.tables)}")
            if not any(fnmatchcase(name, table) for name in self.tables):
                raise ValueError(
                    f"{where}: matches no table; the tables are {', '.join(self.tables)}"
                )
        pooled = [n for _, n, f in self.features if isinstance(f, IdFeature) and f.pooling]
        for name in self.sharding.assumed.ids:
            if name not in pooled:
                raise ValueError(
                    f"sharding.assumed.ids.{name}: no feature with pooling has this name; "
                    f"{nearest(name, pooled)}"
                )
        return self

"""Writes docs/configuration.md from the configuration's own classes.

    python scripts/config_reference.py > docs/configuration.md

A test compares the two, so that the reference cannot fall behind the code.
"""

import inspect
import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from recsys.config import Config, IdFeature, NumberFeature, TableConfig
from recsys.config.data import DataConfig
from recsys.config.evaluation import EvaluationConfig
from recsys.config.export import DriftConfig, ExportConfig, FinetuneConfig, LimitsConfig, Recipe
from recsys.config.features import FeaturesConfig, HistoryConfig
from recsys.config.group import GroupConfig, GroupHistoryConfig
from recsys.config.model import (
    CalibrationConfig,
    CrossingConfig,
    ExpertsConfig,
    GatesConfig,
    ModelConfig,
    ProjectionConfig,
    SequenceConfig,
)
from recsys.config.sharding import AssumedConfig, ConstraintConfig, ShardingConfig
from recsys.config.surfaces import ModuleConfig, SurfaceConfig, TowerConfig
from recsys.config.training import (
    CalibratorsConfig,
    CheckpointConfig,
    DenseConfig,
    EarlyStoppingConfig,
    SparseConfig,
    TrainingConfig,
)

SECTIONS: dict[str, type[BaseModel]] = {
    "": Config,
    "data": DataConfig,
    "data.group": GroupConfig,
    "data.group.history": GroupHistoryConfig,
    "tables.NAME": TableConfig,
    "features": FeaturesConfig,
    "an id feature": IdFeature,
    "a number feature": NumberFeature,
    "features.history": HistoryConfig,
    "surfaces.NAME": SurfaceConfig,
    "surfaces.NAME.tower": TowerConfig,
    "surfaces.NAME.tower.modules[]": ModuleConfig,
    "model": ModelConfig,
    "model.sequence": SequenceConfig,
    "model.projection": ProjectionConfig,
    "model.crossing": CrossingConfig,
    "model.experts": ExpertsConfig,
    "model.gates": GatesConfig,
    "model.calibration": CalibrationConfig,
    "training": TrainingConfig,
    "training.sparse": SparseConfig,
    "training.dense": DenseConfig,
    "training.calibration": CalibratorsConfig,
    "training.early_stopping": EarlyStoppingConfig,
    "training.checkpoint": CheckpointConfig,
    "sharding": ShardingConfig,
    "sharding.constraints.TABLE": ConstraintConfig,
    "sharding.assumed": AssumedConfig,
    "evaluation": EvaluationConfig,
    "export": ExportConfig,
    "export.limits": LimitsConfig,
    "export.finetune": FinetuneConfig,
    "export.drift": DriftConfig,
    "a recipe of an export": Recipe,
}

HEAD = """# Configuration reference

One YAML file is one experiment. Unknown keys are refused. Any key can be overridden on the command
line: `--set training.dense.lr=0.0005`. The run directory keeps the resolved file.
See `configs/simulated.yaml` for a complete, commented example.

This page is made by `scripts/config_reference.py` from the classes in `recsys/config`.
"""


def type_name(annotation: Any) -> str:
    """A type as a user writes it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        tagged = "Discriminator" in repr(arguments[1:])
        return "feature" if tagged else type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(each) for each in arguments)
    if origin is tuple:
        inner = [type_name(each) for each in arguments if each is not Ellipsis]
        return "list of " + " and ".join(dict.fromkeys(inner))
    if origin is dict:
        return f"map of name to {type_name(arguments[1])}"
    if annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


def default(field: Any) -> str:
    """The default as YAML would write it."""
    if field.default_factory is not None:
        return "empty"
    if field.default is PydanticUndefined:
        return "**required**"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    return f"`{json.dumps(field.default)}`"


def section(name: str, model: type[BaseModel]) -> str:
    """One section: its docstring and a table of its keys."""
    text = inspect.getdoc(model) or ""
    lines = [f"## `{name}`" if "feature" not in name or "." in name else f"## {name}", "", text, ""]
    if not name:
        lines[0] = "## Top level"
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        kind = type_name(field.annotation).replace("|", "\\|")
        description = (field.description or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{field.alias or key}` | {kind} | {default(field)} | {description} |")
    return "\n".join(lines)


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(n, m) + "\n" for n, m in SECTIONS.items())]).rstrip() + "\n"


if __name__ == "__main__":
    print(reference(), end="")

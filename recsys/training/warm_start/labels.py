"""What each element of a dense weight stands for, so that two models can be matched by meaning."""

import json
import re
from collections.abc import Hashable, Sequence

from torch import nn

from recsys.config import Config
from recsys.config.model import CalibrationConfig
from recsys.data.layout import IdColumn
from recsys.model.named import module_name
from recsys.model.numbers import NumberTransforms
from recsys.model.unified import SurfaceTower, UnifiedModel
from recsys.training.optimizers import BALANCE, CALIBRATORS

# One label an element along an axis; None: by position, and the axis must have the same length.
Axis = Sequence[Hashable] | None
INPUT_AXIS = 1

_FUSION = re.compile(r"towers\.(?P<surface>[^.]+)\.tower\.fusions\.(?P<at>\d+)\.(?P<rest>.*)")


def axes(model: UnifiedModel) -> dict[str, tuple[Axis, Axis]]:
    """Weight → the labels of its first and second axis, for those that depend on the config's
    features, surfaces and tasks."""
    config, trunk = model.layout.config, model.trunk
    surface: list[Hashable] = [("surface", i) for i in range(trunk.surface.embedding_dim)]
    request = _columns(config, trunk.request_ids, trunk.request_numbers) + surface
    candidate = _columns(config, trunk.candidate_ids, trunk.candidate_numbers)
    found: dict[str, tuple[Axis, Axis]] = {
        "trunk.surface.weight": (list(trunk.surfaces), surface),
    }
    if trunk.history_encoder is not None:
        event = _columns(config, trunk.history_ids, trunk.history_numbers)
        found["trunk.history_encoder.event.weight"] = (None, event)
        positions = range(trunk.history_encoder.position.shape[0])  # from the newest
        found["trunk.history_encoder.position"] = (positions, None)
        found["trunk.candidate_attention.query.weight"] = (None, list(candidate))
        request = request + _numbered("user", trunk.user_projection)
        candidate = candidate + _numbered("attended", trunk.attended_projection)
    found["trunk.projection.request.weight"] = (None, request)
    found["trunk.projection.candidate.weight"] = (None, candidate)
    for name, tower in model.towers.items():
        assert isinstance(tower, SurfaceTower)
        experts = range(tower.tower.gate.experts)
        gates = [(task, e) for task in tower.tower.tasks for e in experts]
        found[f"towers.{name}.tower.gate.linear.weight"] = (gates, None)
        found[f"towers.{name}.tower.gate.linear.bias"] = (gates, None)
    if model.log_variances is not None:
        found[BALANCE] = (list(model.layout.surfaces), list(model.layout.tasks))
    for name, calibrator in model.calibrators.items():
        tasks = list(calibrator.tasks)  # type: ignore[arg-type]
        for parameter, value in calibrator.named_parameters():
            pieces = None if value.dim() == 1 else _pieces(config.model.calibration)
            found[f"{CALIBRATORS}{name}.{parameter}"] = (tasks, pieces)
    return found


def meaning(config: Config, name: str) -> str:
    """A weight's name with what it means in place of a number: a surface's late-fusion module is
    known by its class, inputs and arguments and not by its place in the list."""
    match = _FUSION.fullmatch(name)
    if match is None:
        return name
    surface = next(name for name in config.surfaces if module_name(name) == match["surface"])
    module = config.surfaces[surface].tower.modules[int(match["at"])]
    identity = json.dumps(module.model_dump(mode="json", by_alias=True), sort_keys=True)
    return f"towers.{match['surface']}.tower.fusions.{identity}.{match['rest']}"


def _pieces(config: CalibrationConfig) -> list[Hashable]:
    """The pieces of the logit's axis that have a slope."""
    return [("bucket", config.limit, config.buckets, i) for i in range(config.buckets)]


def _columns(config: Config, ids: list[IdColumn], numbers: NumberTransforms) -> list[Hashable]:
    """The columns that features of one level take up in the trunk's input."""
    found: list[Hashable] = [
        (column.key, i) for column in ids for i in range(config.tables[column.feature.id].dim)
    ]
    for transform, at in numbers.groups.items():
        found += [(numbers.columns[i].name, transform) for i in at]
    return found + [(numbers.columns[i].name, "absent") for i in numbers.nullable]


def _numbered(name: str, layer: nn.Linear) -> list[Hashable]:
    return [(name, i) for i in range(layer.out_features)]

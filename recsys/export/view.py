"""One surface's own configuration and model, cut out of the joint ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.config import Config, parse_config
from recsys.config.experiment import nearest
from recsys.config.export import Recipe
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.evaluation.score import load_model
from recsys.export.artefact import Artefact
from recsys.export.parity import Joint
from recsys.export.tower import own_tables, with_its_statistics, with_tower
from recsys.model.lookup import PlainLookup
from recsys.model.unified import SurfaceTower, UnifiedModel, build_model
from recsys.run_directory import RunDirectory

GATE = ("tower.gate.linear.weight", "tower.gate.linear.bias")


@dataclass(frozen=True)
class View:
    """One surface's configuration, model (fp32, on ordinary tensors) and statistics.

    `joint` is what it was cut from, where it should score as that does.
    """

    config: Config
    model: UnifiedModel
    statistics: Statistics
    joint: Joint | None = None


def view_of_run(
    run: RunDirectory, config: Config, surface: str, recipe: Recipe, tower: Artefact | None
) -> View:
    """The view of a run's best checkpoint that a recipe describes.

    `config` is the run's, with what may be changed in it; `tower` is the export that the recipe
    names. Raises `UserError` for what the run does not have, and for a tower that does not fit its
    trunk.
    """
    statistics = of_run = Statistics.load(run.statistics)
    if tower is not None:
        statistics = with_its_statistics(statistics, tower)
    wanted = view_config(config, surface, recipe, statistics, tower.config if tower else None)
    statistics = view_statistics(wanted, statistics)
    joint = load_model(run, config)
    if tower is None:
        same = Joint(joint, of_run) if recipe.history_length is None else None
        return View(wanted, view_model(joint, wanted, surface), statistics, same)
    model = view_model(joint, wanted, surface, tower.model())
    model.fit_numbers(statistics.numbers)
    return View(wanted, model, statistics)


def view_config(
    config: Config,
    surface: str,
    recipe: Recipe,
    statistics: Statistics,
    tower: Config | None = None,
) -> Config:
    """The configuration of `surface` alone: its tower, the features it reads, their tables.

    With `tower`, the configuration of another view of this surface, the surface is as it is there.

    Its model is the joint model's view: `model.surfaces` keeps the surfaces that the trunk tells
    apart, with this one in the place of that whose tower it shares, and `data.elsewhere` has those
    whose rows are not its own. A table with a vocabulary has the rows of its ids and no more.
    Raises `UserError` for an unknown surface, task or table.
    """
    if surface not in config.active_surfaces:
        raise UserError(
            f"--surface {surface}: not a surface of this run; "
            f"{nearest(surface, config.active_surfaces)} "
            f"(surfaces: {', '.join(config.active_surfaces)})"
        )
    document = config.model_dump(mode="json", by_alias=True)
    own, owner = document["surfaces"][surface], config.tower_name(surface)
    if config.model.towers == "shared":
        own["tower"] = document["surfaces"][next(iter(config.active_surfaces))]["tower"]
        document["model"]["towers"] = "surface"
    elif owner != surface:
        own |= {"tower": document["surfaces"][owner]["tower"], "tower_of": None}
    if tower is not None:
        with_tower(document, surface, tower)
        own = document["surfaces"][surface]
    own["tasks"] = _chosen_tasks(own["tasks"], surface, recipe)
    rates = own["negative_sampling"]
    own["negative_sampling"] = {t: rate for t, rate in rates.items() if t in own["tasks"]}
    branches = own["tower"]["branches"]
    own["tower"]["branches"] = {t: w for t, w in branches.items() if t in own["tasks"]}
    document["surfaces"] = {surface: own}
    known = config.model.surfaces or config.surfaces_with_towers
    document["model"]["surfaces"] = [surface if name == owner else name for name in known]
    features = document["features"]
    for level in ("request", "candidate"):
        features[level] = _features_of(features[level], surface)
    if document["model"]["sequence"] is None:
        features["history"] = None  # nothing reads it
    elif recipe.history_length is not None:
        _shorten_history(features["history"], recipe.history_length)
    _keep_tables(document, statistics)
    others = [name for name in (*config.surfaces, *config.data.elsewhere) if name != surface]
    document["data"] |= {"surfaces": None, "group": None, "elsewhere": others}
    document["evaluation"]["keep"] = []
    return parse_config(document, f"the view of surface {surface}")


def _chosen_tasks(tasks: Mapping[str, float], surface: str, recipe: Recipe) -> dict[str, float]:
    for task in recipe.tasks or ():
        if task not in tasks:
            raise UserError(
                f"--tasks {task}: not a task of surface {surface}; its tasks: {', '.join(tasks)}"
            )
    return {task: tasks[task] for task in recipe.tasks or tasks}


def _features_of(features: Mapping[str, Any], surface: str) -> dict[str, Any]:
    """Those that the surface has; features of some surfaces become features of this one."""
    kept = {}
    for name, feature in features.items():
        only = feature["surfaces"]
        if only is None or surface in only:
            kept[name] = {**feature, "surfaces": None if only is None else [surface]}
    return kept


def _shorten_history(history: dict[str, Any] | None, length: int) -> None:
    most = history["length"] if history else 0
    if length > most:
        raise UserError(
            f"recipe: history_length: {length} is longer than the model's {most}; choose less"
        )
    assert history is not None
    history["length"] = length


def _keep_tables(document: dict[str, Any], statistics: Statistics) -> None:
    features = document["features"]
    fields = features["history"]["fields"] if features["history"] else {}
    declared = [*features["request"].values(), *features["candidate"].values(), *fields.values()]
    read = {feature["id"] for feature in declared if "id" in feature}
    tables = {name: table for name, table in document["tables"].items() if name in read}
    for name, table in tables.items():
        if name in statistics.vocabularies:
            table["rows"] = max(1, len(statistics.vocabularies[name].ids))
    document["tables"] = tables
    constraints = document["sharding"]["constraints"]
    document["sharding"]["constraints"] = {n: c for n, c in constraints.items() if n in tables}


def view_statistics(config: Config, statistics: Statistics) -> Statistics:
    """Those of the tables and numbers that a view's configuration has."""
    keys = {f"{level}.{name}" for level, name, _ in config.features}
    return Statistics(
        {n: found for n, found in statistics.vocabularies.items() if n in config.tables},
        {key: found for key, found in statistics.numbers.items() if key in keys},
    )


@torch.no_grad()
def view_model(
    source: UnifiedModel, config: Config, surface: str, tower: UnifiedModel | None = None
) -> UnifiedModel:
    """A model of a view's configuration with the weights of `source`, copied.

    `source` is the joint model on ordinary tensors, or another view of the same surface. With
    `tower`, another view, the tower is that one's, and so are the tables that it alone reads.
    Raises `UserError` if that tower does not fit.
    """
    seen = source.for_surface(surface)
    model = build_model(config)
    assert isinstance(seen.lookup, PlainLookup) and isinstance(model.lookup, PlainLookup)
    own = own_tables(config) if tower is not None else set()
    for name, table in model.lookup.tables.items():
        found = tower.lookup if tower is not None and name in own else seen.lookup
        assert isinstance(found, PlainLookup)
        weight = found.tables[name].weight
        table.weight.copy_(weight[: table.weight.shape[0]])
    trunk = seen.trunk.state_dict()
    position = "history_encoder.position"
    if position in trunk:  # counted from the newest event
        trunk[position] = trunk[position][: config.features.history.length]  # type: ignore[union-attr]
    model.trunk.load_state_dict(trunk)
    try:
        copy_tower(tower or seen, model, surface)
        copy_calibrator(tower or seen, model, surface)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"recipe: tower: does not fit the run's trunk: {reason}") from None
    return model.eval()


@torch.no_grad()
def copy_tower(source: UnifiedModel, target: UnifiedModel, surface: str) -> None:
    """Copies the tower of a surface; of its heads those that the target has."""
    there = source.towers[source.tower_name(surface)]
    here = target.towers[surface]
    assert isinstance(there, SurfaceTower) and isinstance(here, SurfaceTower)
    state = there.state_dict()
    rows = [there.tower.tasks.index(task) for task in here.tower.tasks]
    for key in GATE:
        state[key] = _rows_of_tasks(state[key], len(there.tower.tasks), rows)
    wanted = here.state_dict().keys()
    here.load_state_dict({k: v for k, v in state.items() if k in wanted or not _of_a_head(k)})


@torch.no_grad()
def copy_calibrator(source: UnifiedModel, target: UnifiedModel, surface: str) -> None:
    """Copies the calibrator of a surface, of the tasks that the target has.

    Raises `RuntimeError` if the two are of other kinds.
    """
    kinds = [each.layout.config.model.calibration for each in (source, target)]
    if kinds[0] != kinds[1]:
        raise RuntimeError(f"model.calibration is {kinds[0]} there and {kinds[1]} here")
    there, here = source.calibrator_of(surface), target.calibrator_of(surface)
    if there is None or here is None:
        return
    rows = [there.tasks.index(task) for task in here.tasks]
    here.load_state_dict({name: value[rows] for name, value in there.state_dict().items()})


def _rows_of_tasks(gate: Tensor, tasks: int, rows: list[int]) -> Tensor:
    """A gate has E rows a task: `[T · E, …]` → those of some tasks."""
    return gate.unflatten(0, (tasks, -1))[rows].flatten(0, 1)


def _of_a_head(key: str) -> bool:
    return key.startswith(("tower.heads.", "tower.branches."))

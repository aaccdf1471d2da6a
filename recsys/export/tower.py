"""A recipe's `tower`: a fine-tuned export's tower in the place of the joint model's."""

from pathlib import Path
from typing import Any

from recsys.config import Config
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.export.artefact import Artefact, is_artefact


def find_tower(name: str | None, surface: str, exports: Path) -> Artefact | None:
    """The export that a recipe names: a folder, or SURFACE/VERSION in the folder of exports.

    Raises `UserError` if there is none, or if it is of another surface.
    """
    if name is None:
        return None
    found = [each for each in (Path(name), exports / name) if is_artefact(each)]
    if not found:
        raise UserError(
            f"recipe: tower: {name} is no export, nor is {exports / name}; "
            "give the folder of a fine-tuned one"
        )
    artefact = Artefact(found[0])
    if artefact.surface != surface:
        raise UserError(
            f"recipe: tower: {name} is an export of surface {artefact.surface}, not of {surface}"
        )
    return artefact


def recorded_name(tower: Artefact) -> str:
    """SURFACE/VERSION: what is meant, wherever it lies."""
    return f"{tower.surface}/{tower.version}"


def with_tower(document: dict[str, Any], surface: str, tower: Config) -> None:
    """Changes a joint configuration, as a document: the surface is as in the config `tower`.

    Its tasks, tower, the features that it alone has, and the tables that only these read.
    """
    other = tower.model_dump(mode="json", by_alias=True)
    document["surfaces"][surface] = other["surfaces"][surface]
    for level in ("request", "candidate"):
        shared, theirs = document["features"][level], other["features"][level]
        shared = {name: each for name, each in shared.items() if not _is_of(each, surface)}
        own = {name: each for name, each in theirs.items() if each["surfaces"] is not None}
        document["features"][level] = shared | own
    document["tables"] |= {name: other["tables"][name] for name in own_tables(tower)}


def _is_of(feature: dict[str, Any], surface: str) -> bool:
    return feature["surfaces"] is not None and surface in feature["surfaces"]


def own_tables(config: Config) -> set[str]:
    """The tables of a view that only features of its surface alone read."""
    own: set[str] = set()
    shared: set[str] = set()
    for _, _, feature in config.features:
        if table := getattr(feature, "id", None):
            (shared if feature.surfaces is None else own).add(table)
    return own - shared


def with_its_statistics(joint: Statistics, tower: Artefact) -> Statistics:
    """The joint run's statistics, and the tower's own of what it alone reads."""
    config, theirs = tower.config, tower.statistics
    own = {f"{level}.{name}" for level, name, each in config.features if each.surfaces is not None}
    tables = own_tables(config)
    return Statistics(
        {n: v for n, v in joint.vocabularies.items() if n not in tables}
        | {n: v for n, v in theirs.vocabularies.items() if n in tables},
        {k: v for k, v in joint.numbers.items() if k not in own}
        | {k: v for k, v in theirs.numbers.items() if k in own},
    )

"""YAML file + `--set` overrides → a checked `Config`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from recsys.config.experiment import Config, nearest
from recsys.errors import UserError


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads and checks an experiment.

    `overrides` are `key.path=value` strings, applied in order; values are parsed as YAML, `null`
    included. Raises `UserError` that names the file, the key, the value and the fix.
    """
    path = Path(path)
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a YAML configuration") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the path of a YAML configuration") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {_one_line(error)}") from None
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write it as key.path=value")
        try:
            OmegaConf.update(tree, key, yaml.safe_load(value), merge=False, force_add=True)
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"--set {override}: {_one_line(error)}") from None
    try:
        document = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    return parse_config(document, str(path))


def parse_config(document: Any, source: str) -> Config:
    """A checked `Config` from plain dicts and lists; `source` is named in errors."""
    if not isinstance(document, dict):
        raise UserError(f"{source}: is not a mapping of keys; see docs/configuration.md")
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        first, *others = error.errors()
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(f"{source}: {_explain(dict(first))}{more}") from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `load_config` reads it back to an equal `Config`."""
    document = config.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(error: dict[str, Any]) -> str:
    """One pydantic error as `key.path: value: what is wrong`."""
    # The tags of the feature union are not keys that a user wrote.
    location = error["loc"]
    if location and location[0] == "features":
        location = tuple(
            part for i, part in enumerate(location) if not (part in ("id", "number") and i > 2
            and i + 1 < len(location)) and not (part in ("id", "number") and i == len(location) - 1
            and error["type"] == "extra_forbidden")
        )  # fmt: skip
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        siblings = _known_keys(error["loc"][:-1])
        return f"unknown key {key}; {nearest(str(error['loc'][-1]), siblings)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key}: missing; add this key"
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {error['input']!r}: {message}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """Keys that the section at `location` may have."""
    found: Any = Config
    for part in location:
        found = _step(found, part)
    models = [found, *get_args(found)]
    for model in models:
        if isinstance(model, type) and issubclass(model, BaseModel):
            return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _step(annotation: Any, part: Any) -> Any:
    """The annotation below `annotation` at one part of a location."""
    candidates = [annotation, *get_args(annotation)]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            field = candidate.model_fields.get(str(part))
            if field is None:
                return candidate  # the tag of a union: stay where we are
            return field.annotation
    # dict[str, X] or tuple[X, ...]: the part is a key or an index.
    arguments = [a for a in get_args(annotation) if a is not Ellipsis and a is not type(None)]
    return arguments[-1] if arguments else annotation

"""YAML file + `--set` overrides → a checked `Config`."""

from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recsys.config.experiment import Config, nearest
from recsys.config.section import Section
from recsys.errors import UserError

Kind = TypeVar("Kind", bound=Section)


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
    except OSError as error:  # OmegaConf's too, for a file that is neither a mapping nor a list
        raise UserError(f"{path}: not readable: {_one_line(error)}") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path}: is not a mapping of keys; see docs/configuration.md")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write it as key.path=value")
        try:
            OmegaConf.update(tree, key, yaml.safe_load(value), merge=False, force_add=True)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
            # The latter two are OmegaConf's for a list that is given a name as its index.
            raise UserError(f"--set {override}: {_one_line(error)}") from None
    try:
        document = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    return parse_config(document, str(path))


def parse_config(document: Any, source: str) -> Config:
    """A checked `Config` from plain dicts and lists; `source` is named in errors."""
    return parse_section(document, source, Config)


def parse_section(document: Any, source: str, kind: type[Kind]) -> Kind:
    """A checked section from plain dicts and lists.

    Raises `UserError` that names the source, the key, the value and the fix.
    """
    if not isinstance(document, dict):
        raise UserError(f"{source}: is not a mapping of keys; see docs/configuration.md")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        # Unknown keys first: a misspelt key is missing too, under its right name.
        errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise UserError(f"{source}: {_explain(errors[0], kind)}{more}") from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `load_config` reads it back to an equal `Config`."""
    document = config.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(error: ErrorDetails, section: type[Section]) -> str:
    """One pydantic error as `key.path: value: what is wrong`."""
    key, siblings = _walk(error["loc"], section)
    kind = error["type"]
    message = error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"unknown key {key}; {nearest(str(error['loc'][-1]), siblings)}"
    if kind == "missing":
        return f"{key}: missing; add this key"
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    if kind == "too_short":
        return f"{key}: is empty; give at least one"
    if kind in ("model_type", "dict_type"):
        message = "should be a mapping of keys"
    return f"{key}: {_shortened(repr(error['input']))}: {message}"


def _shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _walk(location: tuple[int | str, ...], kind: type[Section]) -> tuple[str, list[str]]:
    """Follows a pydantic location down from a section.

    Returns the path as a user writes it, `surfaces.search.tower.modules[0].inputs`, and the keys
    that are known where its last part stands.
    """
    path = ""
    here: Any = kind
    siblings: list[str] = []
    for part in location:
        if part == "[key]":  # the key itself is wrong, for example a number
            break
        here = _required(here)
        tagged, fields = _tagged(here), _fields(here)
        if part in tagged:
            here = tagged[str(part)]  # the tag of a union, which no user wrote
            continue
        path += f"[{part}]" if get_origin(here) is tuple else f".{part}"
        siblings = list(fields)
        here = fields[str(part)] if part in fields else _element(here)
    return path.removeprefix("."), siblings


def _required(annotation: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(annotation) in (Union, UnionType):
        return next(option for option in get_args(annotation) if option is not NoneType)
    return annotation


def _tagged(annotation: Any) -> dict[str, Any]:
    """Tag → type of a union with a discriminator."""
    if get_origin(annotation) is not Annotated:
        return {}
    options = (get_args(option) for option in get_args(get_args(annotation)[0]))
    return {tag.tag: option for option, tag in options}


def _fields(annotation: Any) -> dict[str, Any]:
    """Key → type of a section."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {}
    fields = annotation.model_fields.items()
    return {field.alias or name: field.annotation for name, field in fields}


def _element(annotation: Any) -> Any:
    """The type of the values of a dict, or of the elements of a tuple."""
    arguments = [option for option in get_args(annotation) if option is not Ellipsis]
    return arguments[-1] if arguments else None

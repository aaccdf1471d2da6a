"""A small, complete configuration as plain dicts, and changes of it."""

import copy
from typing import Any

import yaml

_TEXT = """
name: small
data: {root: data/small}
tables:
  video: {rows: 100, dim: 8}
  user: {rows: 50, dim: 4, encode: hash}
  query: {rows: 20, dim: 4}
features:
  request:
    user_id: {id: user}
    days: {number: log1p}
    query: {id: query, surfaces: [search]}
  history:
    length: 10
    fields:
      video_id: {id: video}
      age: {number: log1p}
  candidate:
    video_id: {id: video}
    duration: {number: [log1p, rank]}
    match: {number: none, surfaces: [search]}
surfaces:
  main: {tasks: [click, like], tower: {stem: [8], branches: {like: [4]}}}
  search:
    tasks: {click: 2.0}
    weight: 0.5
    tower:
      modules:
        - {class: low_rank_cross, inputs: [query, match, video_id], rank: 4}
sharding:
  constraints:
    video: {types: [row_wise]}
"""


def document(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The configuration with values set at key paths; `...` deletes a key."""
    found: Any = copy.deepcopy(yaml.safe_load(_TEXT))
    for path, value in changes:
        *above, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        here = found
        for key in above:
            here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
        if value is ...:
            del here[last]
        else:
            here[last] = value
    return found

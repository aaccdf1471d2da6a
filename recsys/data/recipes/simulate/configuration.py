"""The configuration that trains on a simulated log."""

from recsys.data.recipes.simulate.options import SimulateOptions
from recsys.data.recipes.simulate.world import (
    AGE_GROUPS,
    CATEGORIES,
    COUNTRIES,
    QUERIES,
    SECOND_TASKS,
    TAGS,
    TASKS,
    surface_names,
)

_TEMPLATE = """\
# A simulated log of {count} surfaces whose true probabilities are known. Make the data with
#   recsys data simulate {root} {flags}
# What is best reachable per surface and task is in recipe.json beside the data.
name: simulated

data:
  root: {root}   # --set data.root=… for another place
  train: train
  valid: valid
  test: test
  # Files are sorted by user: a window of few row groups is a few users, with all their requests.
  shuffle_row_groups: 64

# Ids of the simulated log are 0 … rows - 1, so that an id is its own row (encode: none).
tables:
  user: {{rows: {users}, dim: 16}}
  item: {{rows: {items}, dim: 16}}        # candidates, history{seed_reader}
  category: {{rows: {categories}, dim: 16, init_std: 0.25}}
  action: {{rows: {actions}, dim: 8, init_std: 0.25}}       # {action_names}
  country: {{rows: {countries}, dim: 8, encode: vocab, init_std: 0.25}}   # strings
  age_group: {{rows: {age_groups}, dim: 8, init_std: 0.25}}
  interest: {{rows: {tags}, dim: 16, init_std: 0.25}}      # read by a pooled request feature only
  tag: {{rows: {tags}, dim: 16, init_std: 0.25}}           # read by a pooled candidate feature only
{query_table}
features:
  request:
    user_id: {{id: user}}
    country: {{id: country}}
    age_group: {{id: age_group}}
    hour: {{number: [standard, rank]}}
    interests: {{id: interest, pooling: mean}}
{request_only}  history:
    length: 50                          # clicks on any surface, oldest first
    fields:
      item_id: {{id: item}}
      category: {{id: category}}
      action: {{id: action}}
      age_hours: {{number: log1p}}
  candidate:
    item_id: {{id: item}}
    category: {{id: category}}
    tags: {{id: tag, pooling: mean}}
    price: {{number: log1p}}
    quality: {{number: standard}}
{candidate_only}
surfaces:
{surfaces}
model:
  sequence: {{dim: 64, layers: 1, heads: 4, feedforward: 128}}
  projection: {{sequence: 32, width: 256}}
  crossing: {{layers: 2, rank: 64}}
  experts: {{count: 3, hidden: [128]}}
  calibration: {{kind: platt}}            # each surface by its own traffic

training:
  epochs: 4
  batch_candidates: 1024
  loss: cell
  sparse: {{lr: 0.02}}
  dense: {{lr: 0.002, decay: linear}}
  precision: fp32
  seed: 1

evaluation:
  group: user_id                        # GAUC and the bootstrap
  keep: [user_id, item_id]
"""

_QUERY_TABLE = "  query: {{rows: {queries}, dim: 16, init_std: 0.25}}        # search only\n"
# Features that one surface alone has bypass the trunk; a module of its tower reads them.
_SEARCH_REQUEST = "    query: {id: query, surfaces: [search]}\n"
_RELATED_REQUEST = """\
    seed_item: {id: item, surfaces: [related]}
    seed_category: {id: category, surfaces: [related]}
"""
_SEARCH_CANDIDATE = "    query_match: {number: none, surfaces: [search]}\n"
_MODULES = {
    "search": """\
      modules:
        - {class: low_rank_cross, inputs: [query, query_match, item_id, category, tags]}
""",
    "related": """\
      modules:
        - {class: low_rank_cross, inputs: [seed_category, seed_item, item_id, category]}
""",
}


def configuration(root: str, options: SimulateOptions) -> str:
    """A complete, commented YAML for the log that `options` make; `root` is written as it is."""
    names = surface_names(options.surfaces)
    search, related = "search" in names, "related" in names
    return _TEMPLATE.format(
        count=options.surfaces,
        root=root,
        flags=_flags(options),
        users=options.user_count,
        items=options.item_count,
        seed_reader=" and related's seed_item" if related else "",
        categories=CATEGORIES,
        actions=1 + len(TASKS),
        action_names=", ".join(f"{i} {task}" for i, task in enumerate(TASKS, start=1)),
        countries=len(COUNTRIES),
        age_groups=AGE_GROUPS,
        tags=TAGS,
        query_table=_QUERY_TABLE.format(queries=QUERIES) if search else "",
        request_only=_SEARCH_REQUEST * search + _RELATED_REQUEST * related,
        candidate_only=_SEARCH_CANDIDATE * search,
        surfaces="".join(_surface(number, name) for number, name in enumerate(names)),
    )


def _surface(number: int, name: str) -> str:
    second = SECOND_TASKS[number % len(SECOND_TASKS)]
    return (
        f"  {name}:\n"
        f"    tasks: [click, {second}]\n"
        "    tower:\n"
        "      stem: [64]\n"
        f"{_MODULES.get(name, '')}"
    )


def _flags(options: SimulateOptions) -> str:
    named = ("requests", "candidates", "surfaces", "seed", "users", "items")
    chosen = {name: getattr(options, name) for name in named}
    chosen["drift"] = options.drift or None
    return " ".join(f"--{name} {value}" for name, value in chosen.items() if value is not None)

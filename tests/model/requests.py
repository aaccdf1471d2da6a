"""Random configurations and requests, and a slow, plain collation of requests into a `Batch`."""

import copy
import random
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.config import Config, parse_config
from recsys.data.batch import Batch
from recsys.data.layout import IdColumn, Layout, is_sequences

Request = dict[str, Any]

KINDS = ("platt", "isotonic", "global", "platt", "none")  # of calibration, by seed


# What peers have, by the seed of the configuration that has it.
PEERS: dict[int, dict[str, Any]] = {
    1: {"gates": {"epnet": True}},
    2: {"gates": {"ppnet": ["user_id", "item"]}},
    3: {"towers": "star"},
}


def random_config(seed: int, **changes: Any) -> Config:
    """A configuration with every kind of feature; `changes` replace top-level sections."""
    draw = random.Random(seed)
    dims = [4, 8, 12]
    document: dict[str, Any] = {
        "name": f"random{seed}",
        "data": {"root": "nowhere"},
        "tables": {
            name: {"rows": draw.randint(5, 30), "dim": draw.choice(dims)}
            for name in ("user", "item", "action", "topic", "tag", "query", "both")
        },
        "features": {
            "request": {
                "user_id": {"id": "user"},
                "topics": {"id": "topic", "pooling": draw.choice(["sum", "mean"])},
                "liked_tags": {"id": "both", "pooling": "mean"},
                "age": {"number": draw.choice(["none", "log1p", "standard", "rank"])},
                "height": {"number": "rank"},
                "weight": {"number": ["standard", "rank"]},
                "query": {"id": "query", "surfaces": ["search"]},
                "query_length": {"number": "log1p", "surfaces": ["search"]},
            },
            "history": {
                "length": draw.randint(3, 8),
                "fields": {
                    "item": {"id": "item"},
                    "action": {"id": "action"},
                    "ago": {"number": "log1p"},
                },
            },
            "candidate": {
                "item": {"id": "item"},
                "tags": {"id": "tag", "pooling": draw.choice(["sum", "mean"])},
                "more_tags": {"id": "both", "pooling": "sum"},
                "price": {"number": ["log1p", "rank"]},
                "match": {"number": "none", "surfaces": ["search"]},
            },
        },
        "surfaces": {
            "home": {"tasks": ["click", "like"], "tower": {"stem": [8], "branches": {"like": [4]}}},
            "search": {
                "tasks": {"like": 0.5, "buy": 2.0},
                "weight": 0.7,
                "tower": {
                    "stem": [6],
                    "modules": [
                        {
                            "class": "low_rank_cross",
                            "inputs": ["query", "match", "query_length", "item"],
                            "rank": 4,
                        },
                        {"class": "history_attention", "inputs": ["query", "history"]},
                        {"class": "mlp", "inputs": ["trunk", "user_id"], "hidden": [5]},
                    ],
                },
                "negative_sampling": {"buy": 0.25},
            },
            "related": {"tasks": ["click"], "tower": {"stem": []}},
        },
        "model": {
            "sequence": {"dim": 8, "layers": draw.randint(1, 2), "heads": 2, "feedforward": 12},
            "projection": {"sequence": 4, "width": 16},
            "crossing": {"layers": draw.randint(1, 2), "rank": 4},
            "experts": {"count": draw.randint(1, 3), "hidden": draw.choice([[8], [10, 6]])},
            "calibration": {"kind": KINDS[seed % len(KINDS)], "buckets": 6, "limit": 3.0},
        },
    }
    document["model"] |= PEERS.get(seed, {})
    document["model"]["experts"]["own"] = seed % 2
    document["model"]["experts"]["layers"] = 2 if seed % 4 == 1 else 1
    if document["model"].get("towers") == "star":
        for surface in document["surfaces"].values():
            surface["tower"]["stem"] = [8]
    return parse_config({**document, **changes}, "random")


def random_requests(
    config: Config, count: int, seed: int, surfaces: list[str] | None = None, candidates: int = 5
) -> list[Request]:
    """Requests with embedding rows in place of ids; None is an absent number."""
    draw = random.Random(seed)
    layout = Layout(config)

    def row(column: IdColumn) -> Any:
        rows = config.tables[column.feature.id].rows
        if column.multi_valued:
            return [draw.randint(0, rows) for _ in range(draw.randint(0, 3))]
        return draw.randint(0, rows)

    def element(level: str) -> dict[str, Any]:
        found = {c.name: row(c) for c in layout.ids if c.level == level}
        for number in layout.numbers_of(level):  # type: ignore[arg-type]
            found[number.name] = None if draw.random() < 0.2 else draw.uniform(-3, 3)
        return found

    requests = []
    for _ in range(count):
        surface = draw.choice(surfaces or list(config.surfaces))
        shown = [element("candidate") for _ in range(draw.randint(1, candidates))]
        for candidate in shown:
            for task in config.surfaces[surface].tasks:
                candidate[task] = draw.choice([0.0, 1.0, None])
        requests.append(
            {
                **element("request"),
                "surface": surface,
                "history": [
                    element("history") for _ in range(draw.randint(0, layout.history_length))
                ],
                "candidates": shown,
            }
        )
    return requests


def flatten(requests: list[Request]) -> list[Request]:
    """One request a candidate."""
    return [
        {**copy.deepcopy(request), "candidates": [candidate]}
        for request in requests
        for candidate in request["candidates"]
    ]


def by_surface(config: Config, requests: list[Request]) -> list[Request]:
    """In the order of a batch's rows."""
    order = list(config.surfaces)
    return sorted(requests, key=lambda request: order.index(request["surface"]))


def collate(config: Config, requests: list[Request]) -> Batch:
    """A batch, built element by element."""
    layout = Layout(config)
    requests = by_surface(config, requests)
    shown = [(i, c) for i, request in enumerate(requests) for c in request["candidates"]]
    order = list(config.surfaces)
    nan = float("nan")

    def numbers(level: str, rows: list[Request]) -> torch.Tensor:
        names = [column.name for column in layout.numbers_of(level)]  # type: ignore[arg-type]
        values = [[nan if r[n] is None else r[n] for n in names] for r in rows]
        return torch.tensor(values, dtype=torch.float32).reshape(len(rows), len(names))

    bag_lengths = {}

    def jagged(collection: str) -> KeyedJaggedTensor:
        keys, values, lengths = [], [], []
        columns = layout.ids_of(collection)
        for column in columns:
            keys.append(column.key)
            if column.level == "request":
                runs = [[r[column.name]] for r in requests]
            elif column.level == "history":
                runs = [[e[column.name] for e in r["history"]] for r in requests]
            elif is_sequences(collection):
                runs = [[c[column.name] for c in r["candidates"]] for r in requests]
            else:
                runs = [[c[column.name]] for _, c in shown]
            if column.multi_valued:
                if is_sequences(collection):
                    inner = [len(bag) for run in runs for bag in run]
                    bag_lengths[column.key] = torch.tensor(inner, dtype=torch.long)
                runs = [[row for bag in run for row in bag] for run in runs]
            values += [row for run in runs for row in run]
            lengths += [len(run) for run in runs]
        if not lengths:  # torchrec's sharding refuses a stride of 0
            lengths = [0] * len(keys)
        return KeyedJaggedTensor(
            keys=keys,
            values=torch.tensor(values, dtype=torch.long),
            lengths=torch.tensor(lengths, dtype=torch.long),
        )

    def offsets(surfaces: list[str]) -> tuple[int, ...]:
        return tuple(sum(order.index(x) < s for x in surfaces) for s in range(len(order) + 1))

    request_surfaces = [r["surface"] for r in requests]
    candidate_surfaces = [requests[i]["surface"] for i, _ in shown]
    labels = [[c.get(t) for t in config.tasks] for _, c in shown]
    history = [len(r["history"]) for r in requests]
    count = [len(r["candidates"]) for r in requests]
    return Batch(
        sparse={name: jagged(name) for name in layout.collections},
        bag_lengths=bag_lengths,
        request_numbers=numbers("request", requests),
        candidate_numbers=numbers("candidate", [c for _, c in shown]),
        history_numbers=numbers("history", [e for r in requests for e in r["history"]]),
        history_lengths=torch.tensor(history, dtype=torch.long),
        candidate_lengths=torch.tensor(count, dtype=torch.long),
        request_index=torch.tensor([i for i, _ in shown], dtype=torch.long),
        request_surface_index=torch.tensor(
            [order.index(s) for s in request_surfaces], dtype=torch.long
        ),
        surface_index=torch.tensor([order.index(s) for s in candidate_surfaces], dtype=torch.long),
        labels=torch.tensor(
            [[nan if x is None else x for x in row] for row in labels], dtype=torch.float32
        ).reshape(len(shown), len(config.tasks)),
        request_offsets=offsets(request_surfaces),
        candidate_offsets=offsets(candidate_surfaces),
        longest_history=max(history, default=0),
        most_candidates=max(count, default=0),
        passed=len(requests),
    )

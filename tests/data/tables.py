"""Small random request tables with every kind of column, and slow, plain code that reads them."""

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from recsys.config import Config, parse_config
from recsys.data.layout import Layout

DOCUMENT: dict[str, Any] = {
    "name": "tables",
    "data": {"root": "unset", "shuffle_row_groups": 3, "prefetch_batches": 2},
    "tables": {
        "user": {"rows": 100_000, "dim": 4},
        "item": {"rows": 40, "dim": 8},
        "word": {"rows": 7, "dim": 4, "encode": "hash"},
        "city": {"rows": 3, "dim": 4, "encode": "vocab", "min_count": 2},
        "code": {"rows": 5, "dim": 4, "encode": "vocab"},
        "sparse": {"rows": 4, "dim": 4, "encode": "vocab"},
        "tag": {"rows": 300, "dim": 4},
        "key": {"rows": 11, "dim": 4, "encode": "hash"},
        "query": {"rows": 9, "dim": 4},
    },
    "features": {
        "request": {
            "user": {"id": "user"},
            "seed": {"id": "item"},
            "country": {"id": "word"},
            "codes": {"id": "code", "pooling": "mean"},
            "query": {"id": "query", "surfaces": ["search"]},
            "terms": {"id": "query", "pooling": "sum", "surfaces": ["search"]},
            "age": {"number": "log1p"},
            "score": {"number": "none", "surfaces": ["search"]},
        },
        "history": {
            "length": 4,
            "fields": {
                "item": {"id": "item"},
                "city": {"id": "city"},
                "hours": {"number": "log1p"},
            },
        },
        "candidate": {
            "item_id": {"id": "item"},
            "words": {"id": "word", "pooling": "sum"},
            "city": {"id": "city"},
            "place": {"id": "sparse"},
            "tag": {"id": "tag"},
            "tags": {"id": "tag", "pooling": "mean"},
            "key": {"id": "key"},
            "price": {"number": ["standard", "rank"]},
            "match": {"number": "none", "surfaces": ["search"]},
        },
    },
    "surfaces": {
        "home": {"tasks": ["click", "like"]},
        "search": {
            "tasks": ["click"],
            "tower": {
                "modules": [{"class": "mlp", "inputs": ["query", "terms", "score", "match"]}]
            },
        },
        "related": {"tasks": ["click", "buy"]},
    },
    "evaluation": {"group": "user", "keep": ["user", "item_id", "note"]},
}

SCHEMA = pa.schema(
    {
        "request_id": pa.string(),
        "surface": pa.string(),
        "time": pa.int64(),
        "note": pa.string(),
        "user": pa.int64(),
        "seed": pa.int64(),
        "country": pa.string(),
        "codes": pa.list_(pa.int64()),
        "query": pa.int64(),
        "terms": pa.list_(pa.int64()),
        "age": pa.float64(),
        "score": pa.float32(),
        "unread": pa.list_(pa.string()),
        "history": pa.list_(
            pa.struct(
                {"hours": pa.float32(), "item": pa.int64(), "city": pa.string(), "x": pa.int8()}
            )
        ),
        "candidates": pa.list_(
            pa.struct(
                {
                    "item_id": pa.int64(),
                    "words": pa.list_(pa.string()),
                    "city": pa.string(),
                    "place": pa.int64(),
                    "tag": pa.int64(),
                    "tags": pa.list_(pa.int64()),
                    "key": pa.int64(),
                    "price": pa.int32(),
                    "match": pa.float32(),
                    "click": pa.int8(),
                    "like": pa.float32(),
                    "buy": pa.bool_(),
                }
            )
        ),
    }
)


def config(root: Path | str, **sections: Any) -> Config:
    """The configuration above; `sections` replace keys inside its sections."""
    document = {**DOCUMENT, "data": {**DOCUMENT["data"], "root": str(root)}}
    for name, changes in sections.items():
        document[name] = {**document.get(name, {}), **changes}
    return parse_config(document, "tables.py")


def rows(count: int, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    """Random requests, numbered from `first` in the column `user`."""
    r = random.Random(seed)

    def maybe(value: Any, missing: float = 0.2) -> Any:
        return None if r.random() < missing else value

    def many(draw: Any, most: int) -> Any:
        return maybe([maybe(draw(), 0.1) for _ in range(r.randint(0, most))], 0.1)

    def event() -> dict[str, Any]:
        return {
            "hours": maybe(r.uniform(0, 99)),
            "item": maybe(r.randrange(40)),
            "city": maybe(r.choice(["Ulm", "Jena", "Köln", "Bonn", "Trier"])),
            "x": 1,
        }

    def candidate() -> dict[str, Any]:
        return {
            "item_id": maybe(r.randrange(40)),
            "words": many(lambda: r.choice(["a", "bc", "d é", ""]), 3),
            "city": maybe(r.choice(["Ulm", "Jena", "Köln", "Bonn", "Trier"])),
            "place": maybe(r.choice([-(2**62), -5, 7, 2**62, 2**40, 11])),
            "tag": maybe(r.randrange(300)),
            "tags": many(lambda: r.randrange(300), 3),
            "key": maybe(r.choice([-3, 0, 5, 2**62, -(2**63)])),
            "price": maybe(r.randrange(1000)),
            "match": maybe(r.random()),
            "click": maybe(r.randrange(2)),
            "like": maybe(r.random()),
            "buy": maybe(r.random() < 0.5),
        }

    return [
        {
            "request_id": f"r{first + number}",
            "surface": r.choice(["home", "search", "related"]),
            "time": 1000 + number,
            "note": maybe(f"n{number}"),
            "user": first + number,
            "seed": maybe(r.randrange(40)),
            "country": maybe(r.choice(["de", "fr", "日本"])),
            "codes": many(lambda: r.randrange(-3, 9), 4),
            "query": maybe(r.randrange(9)),
            "terms": many(lambda: r.randrange(9), 3),
            "age": maybe(r.uniform(0, 90)),
            "score": maybe(r.uniform(-1, 1)),
            "unread": ["a"],
            "history": maybe([maybe(event(), 0.05) for _ in range(r.choice([0, 1, 3, 4, 9]))]),
            "candidates": maybe(
                [maybe(candidate(), 0.05) for _ in range(r.choice([0, 1, 2, 5]))], 0.05
            ),
        }
        for number in range(count)
    ]


def write(folder: Path, requests: list[dict[str, Any]], *sizes: tuple[int, int]) -> None:
    """Writes requests as files of (requests, row group size); one file by default."""
    folder.mkdir(parents=True, exist_ok=True)
    at = 0
    for number, (size, row_group) in enumerate(sizes or ((len(requests), 1000),)):
        table = pa.Table.from_pylist(requests[at : at + size], SCHEMA)
        path = folder / f"part-{number:03}.parquet"
        pq.write_table(table, path, row_group_size=row_group, data_page_size=512)
        at += size
    assert at == len(requests)


def vocabularies(settings: Config, requests: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Table → its ids in the order of rows, counted one by one."""
    counts: dict[str, Counter] = {
        name: Counter() for name, table in settings.tables.items() if table.encode == "vocab"
    }
    for request in requests:
        for column in Layout(settings).ids:
            if column.feature.id in counts:
                for value in _values(request, column, settings):
                    counts[column.feature.id].update(v for v in value if v is not None)
    found = {}
    for name, counter in counts.items():
        table = settings.tables[name]
        ranked = sorted(counter.items(), key=lambda each: (-each[1], each[0]))
        found[name] = [v for v, count in ranked if count >= table.min_count][: table.rows]
    return found


def expected(
    settings: Config, requests: list[dict[str, Any]], known: dict[str, list[Any]]
) -> dict[str, Any]:
    """What a batch of `requests`, already sorted by surface, must hold, as nested lists."""
    layout = Layout(settings)
    sparse: dict[str, Any] = {}
    bag_lengths: dict[str, list[int]] = {}
    for collection in layout.collections:
        for column in layout.ids_of(collection):
            values, lengths, inner = [], [], []
            for request in requests:
                lists = _values(request, column, settings)
                encoded = [[_row(v, column, settings, known) for v in each] for each in lists]
                values += [v for each in encoded for v in each]
                inner += [len(each) for each in encoded]
                if collection == "candidate_bags":
                    lengths += [len(each) for each in encoded]
                else:
                    lengths.append(sum(len(each) for each in encoded))
            sparse.setdefault(collection, {})[column.key] = (values, lengths)
            if collection.startswith("sequences") and column.multi_valued:
                bag_lengths[column.key] = inner
    numbers = {
        level: [
            [_number(item, column, request) for column in layout.numbers_of(level)]
            for request in requests
            for item in _items(request, level, settings)
        ]
        for level in ("request", "candidate", "history")
    }
    candidates = [len(_items(request, "candidate", settings)) for request in requests]
    surfaces = [layout.surfaces.index(request["surface"]) for request in requests]
    return {
        "sparse": sparse,
        "bag_lengths": bag_lengths,
        "numbers": numbers,
        "history_lengths": [len(_items(request, "history", settings)) for request in requests],
        "candidate_lengths": candidates,
        "request_index": [r for r, count in enumerate(candidates) for _ in range(count)],
        "request_surface_index": surfaces,
        "surface_index": [s for s, n in zip(surfaces, candidates, strict=True) for _ in range(n)],
        "labels": [
            [math.nan if item.get(task) is None else float(item[task]) for task in layout.tasks]
            for request in requests
            for item in _items(request, "candidate", settings)
        ],
    }


def _items(request: dict[str, Any], level: str, settings: Config) -> list[dict[str, Any]]:
    if level == "request":
        return [request]
    found = request["candidates" if level == "candidate" else "history"] or []
    if level == "history":
        found = found[-settings.features.history.length :]
    return [item or {} for item in found]


def _values(request: dict[str, Any], column: Any, settings: Config) -> list[list[Any]]:
    """The ids of each item of the request; a single-valued feature has one, maybe null."""
    only = column.feature.surfaces
    absent = only is not None and request["surface"] not in only
    found = []
    for item in _items(request, column.level, settings):
        value = None if absent else item.get(column.name)
        found.append((value or []) if column.multi_valued else [value])
    return found


def _number(item: dict[str, Any], column: Any, request: dict[str, Any]) -> float:
    only = column.feature.surfaces
    value = item.get(column.name)
    absent = value is None or (only is not None and request["surface"] not in only)
    return math.nan if absent else float(value)


def _row(value: Any, column: Any, settings: Config, known: dict[str, list[Any]]) -> int:
    if value is None:
        return 0
    name = column.feature.id
    table = settings.tables[name]
    if table.encode == "none":
        return value + 1
    if table.encode == "vocab":
        return known[name].index(value) + 1 if value in known[name] else 0
    if isinstance(value, str):
        return 1 + xxhash.xxh64(value.encode()).intdigest() % table.rows
    return 1 + splitmix64(value) % table.rows


def splitmix64(value: int) -> int:
    mask = 2**64 - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)

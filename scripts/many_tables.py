"""Writes a random request table for configs/embedding_heavy.yaml: many id columns, long lists.

    python scripts/many_tables.py OUT [--requests 12000] [--seed 0]

For the cost of tables alone: ids are Zipf-distributed over the rows that the configuration
declares, labels are coin tosses. Nothing can be learnt from it.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import Config, IdFeature, load_config
from recsys.files import whole_folder

CONFIG = Path(__file__).parents[1] / "configs" / "embedding_heavy.yaml"
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
ZIPF = 1.2
ROW_GROUP = 1024


def ids(draw: np.random.Generator, rows: int, count: int) -> pa.Array:
    """`count` ids below `rows`: a few frequent ones, scattered over the table."""
    ranks = np.minimum(draw.zipf(ZIPF, count), rows).astype(np.int64) - 1
    return pa.array(ranks * 2_654_435_761 % rows)


def lists(draw: np.random.Generator, rows: int, count: int, mean: float) -> pa.Array:
    """`count` lists of ids, of `mean` ids on average."""
    offsets = np.concatenate([[0], np.cumsum(draw.poisson(mean, count))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), ids(draw, rows, int(offsets[-1])))


def table(config: Config, requests: int, draw: np.random.Generator) -> pa.Table:
    """A request table with every feature of the configuration."""
    assumed = config.sharding.assumed
    history = config.features.history
    assert history is not None and assumed.history is not None
    shown = np.maximum(draw.poisson(assumed.candidates, requests), 1)
    past = np.minimum(draw.poisson(assumed.history, requests), history.length)
    sizes = {"request": requests, "candidate": int(shown.sum()), "history": int(past.sum())}
    levels: dict[str, dict[str, pa.Array]] = {level: {} for level in sizes}
    for level, name, feature in config.features:
        count = sizes[level]
        if not isinstance(feature, IdFeature):
            levels[level][name] = pa.array(draw.normal(size=count).astype(np.float32))
        elif feature.pooling:
            rows, mean = config.tables[feature.id].rows, assumed.ids.get(name, 1.0)
            levels[level][name] = lists(draw, rows, count, mean)
        else:
            levels[level][name] = ids(draw, config.tables[feature.id].rows, count)
    for task in config.tasks:
        labels = (draw.random(sizes["candidate"]) < 0.3).astype(np.float32)
        levels["candidate"][task] = pa.array(labels)

    def nested(level: str, lengths: np.ndarray) -> pa.Array:
        columns = levels[level]
        structs = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), structs)

    surfaces = list(config.surfaces)
    return pa.table(
        {
            "request_id": pa.array(np.arange(requests)),
            "surface": pa.array([surfaces[i % len(surfaces)] for i in range(requests)]),
            "time": pa.array(np.arange(requests) * 1000),
            **levels["request"],
            "history": nested("history", past),
            "candidates": nested("candidate", shown),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = load_config(CONFIG)
    draw = np.random.default_rng(options.seed)
    with whole_folder(options.out) as folder:
        for split, share in SHARES.items():
            (folder / split).mkdir()
            made = table(config, max(1, round(options.requests * share)), draw)
            pq.write_table(made, folder / split / "part-0.parquet", row_group_size=ROW_GROUP)
    print(f"{options.requests} requests in {options.out}")


if __name__ == "__main__":
    main()

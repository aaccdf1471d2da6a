"""Checks by hand that a simulated log tells models apart, and prints what it finds.

    python scripts/check_simulator.py [--requests 125000 --candidates 8 --surfaces 3 --seed 0]

Prints, for click on the test days: the mean and deviation of every term of the logit; the best
reachable AUC; the AUC of a logistic regression on all raw inputs; and the AUC of the best predictor
that may not see the history, the ids or the surface. "Best predictor" is a gradient-boosted model
over the true terms that stay visible (and over hand-made features where a term is partly visible),
so that what it loses is what is hidden and not what it failed to learn. Needs `lightgbm`.
"""

import argparse
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from recsys.data.recipes.simulate import SimulateOptions, chunk_count, simulate_chunk, split_of
from recsys.data.recipes.simulate.recent import HISTORY_LENGTH
from recsys.data.recipes.simulate.table import request_table
from recsys.data.recipes.simulate.world import (
    CATEGORIES,
    COUNTRIES,
    QUERIES,
    SECOND_TASKS,
    TAGS,
    TERMS,
    World,
)

TERM = {name: column for column, name in enumerate(TERMS)}


def collect(world: World) -> dict[str, np.ndarray]:
    """One row a candidate: terms, truth, labels, raw inputs and aggregates of the history."""
    parts: dict[str, list[np.ndarray]] = {}
    for chunk in range(chunk_count(world.options)):
        users, log, request_id = simulate_chunk(world, chunk, keep_terms=True)
        assert log.terms is not None
        request, column = np.nonzero(log.shown)
        owner, item = log.owner[request], log.item[request, column]
        second = world.surfaces.second_task[log.surface]
        history = request_table(world, users, log, request_id)["history"].chunk(0)
        event_request = np.repeat(np.arange(len(log.time)), np.diff(history.offsets.to_numpy()))
        event_category = history.values.field("category").to_numpy()
        counts = np.zeros((len(log.time), CATEGORIES), np.float32)
        np.add.at(counts, (event_request, event_category), 1 / HISTORY_LENGTH)
        interests = np.zeros((len(users.user_id), TAGS), np.float32)
        for place in range(users.interests.shape[1]):
            has = np.flatnonzero(users.interest_count > place)
            interests[has, users.interests[has, place]] = 1
        taste = interests @ world.tag_vector / np.maximum(1, interests.sum(axis=1))[:, None]
        history_taste = counts @ world.category_vector
        tags = np.zeros((len(item), TAGS), np.float32)
        for place in range(world.tags.shape[1]):
            has = np.flatnonzero(world.tag_count[item] > place)
            tags[has, world.tags[item[has], place]] = 1
        for name, values in {
            "terms": log.terms[request, column],
            "p": log.click_p[request, column],
            "second_p": log.second_p[request, column],
            "click": log.click[request, column],
            "second": log.second[request, column],
            "task": second[request],
            "split": split_of(log.time)[request],
            "surface": log.surface[request],
            "user": users.user_id[owner],
            "country": users.country[owner] + 1,
            "age": users.age_group[owner] + 1,
            "hour": (log.time / 3.6e6 % 24)[request],
            "query": log.query[request] + 1,
            "seed": log.seed[request] + 1,
            "item": item,
            "category": world.category[item],
            "tags": tags,
            "interests": interests[owner],
            "taste": taste[owner],
            "counts": counts[request],
            "history_taste": history_taste[request],
            "item_vector": world.item_vector[item],
            "price": world.price_z[item],
            "quality": np.nan_to_num((world.quality[item] - 0.5) / 0.2),
            "match": log.match[request, column],
        }.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def logistic_regression(data: dict[str, np.ndarray], world: World) -> float:
    """AUC of a logistic regression on every raw input: ids one-hot, numbers, bags of history."""

    def one_hot(name: str, size: int) -> sp.csr_matrix:
        rows = np.arange(len(data[name]))
        return sp.csr_matrix(
            (np.ones(len(rows), np.float32), (rows, data[name])), (len(rows), size)
        )

    options = world.options
    columns = [
        one_hot("surface", options.surfaces),
        one_hot("user", options.user_count),
        one_hot("item", options.item_count),
        one_hot("category", CATEGORIES),
        one_hot("country", len(COUNTRIES) + 1),
        one_hot("age", 7),
        one_hot("query", QUERIES + 1),
        one_hot("seed", options.item_count + 1),
        sp.csr_matrix(data["tags"]),
        sp.csr_matrix(data["interests"]),
        sp.csr_matrix(data["counts"]),
        *(
            sp.csr_matrix(x[:, None].astype(np.float32))
            for x in (
                data["price"],
                data["quality"],
                np.nan_to_num(data["match"] - 0.5),
                np.cos(data["hour"] * np.pi / 12),
                np.sin(data["hour"] * np.pi / 12),
                data["counts"].sum(axis=1),
            )
        ),
    ]
    x = sp.hstack(columns).tocsr()
    train, test = data["split"] == 0, data["split"] == 2
    model = LogisticRegression(C=1.0, max_iter=60).fit(x[train], data["click"][train])
    return _auc(data, test, model.decision_function(x[test]))


def boosted(data: dict[str, np.ndarray], columns: list[np.ndarray]) -> float:
    """AUC of a gradient-boosted model on the given columns."""
    import lightgbm

    x = np.column_stack(columns).astype(np.float32)
    train, test = data["split"] == 0, data["split"] == 2
    model = lightgbm.LGBMClassifier(
        n_estimators=200, num_leaves=63, learning_rate=0.1, min_child_samples=100, n_jobs=1,
        verbose=-1,
    )  # fmt: skip
    model.fit(x[train], data["click"][train])
    return _auc(data, test, model.predict(x[test], raw_score=True))


def hidden(data: dict[str, np.ndarray]) -> dict[str, float]:
    """Name of what is hidden → AUC of the best predictor without it."""
    terms = data["terms"]
    surface = [data["surface"]]
    no_query, no_seed = data["query"] == 0, data["seed"] == 0

    def but(*names: str) -> list[np.ndarray]:
        return [terms[:, TERM[name]] for name in TERMS if name not in names]

    # Without user and item ids: what the other inputs tell of the user's taste stays.
    dots = [(data[name] * data["item_vector"]).sum(axis=1) for name in ("taste", "history_taste")]
    seen = [data["country"], data["age"], data["category"], data["counts"].sum(axis=1)]
    without_ids = [*but("appeal", "affinity", "thrift", "activity"), *dots, *seen, *surface]
    return {
        "nothing": boosted(data, [*but(), *surface]),
        "history": boosted(data, [*but("interest"), *surface]),
        "user and item ids": boosted(data, without_ids),
        "surface, its own features stay": boosted(data, [*but(), no_query, no_seed]),
        "surface and its own features": boosted(data, but("match", "fit", "similarity")),
        "its own features only": boosted(data, [*but("match", "fit", "similarity"), *surface]),
    }


def _auc(data: dict[str, np.ndarray], rows: np.ndarray, score: np.ndarray) -> float:
    return float(roc_auc_score(data["click"][rows], score))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name, value in {"requests": 125_000, "candidates": 8, "surfaces": 3, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--skip", default="", help="probes to skip: lr, hidden")
    arguments: dict[str, Any] = vars(parser.parse_args())
    skip = arguments.pop("skip")
    world = World(SimulateOptions(**arguments))
    data = collect(world)
    test = data["split"] == 2

    print(f"{'term':12s}" + "".join(f"{name:>20s}" for name in world.surfaces.names))
    for name, column in TERM.items():
        cells = [data["terms"][data["surface"] == s, column] for s in range(arguments["surfaces"])]
        print(f"{name:12s}" + "".join(f"{c.mean():12.2f} ±{c.std():6.2f}" for c in cells))
    best = _auc(data, test, data["p"][test])
    print(f"\nbest reachable, click, all surfaces: AUC {best:.4f}")
    for s, name in enumerate(world.surfaces.names):
        rows = test & (data["surface"] == s)
        second = SECOND_TASKS[world.surfaces.second_task[s]]
        print(
            f"  {name:10s} click {_auc(data, rows, data['p'][rows]):.4f}"
            f" rate {data['click'][rows].mean():.3f}  {second}"
            f" {roc_auc_score(data['second'][rows], data['second_p'][rows]):.4f}"
            f" rate {data['second'][rows].mean():.3f}"
        )
    if "lr" not in skip:
        score = logistic_regression(data, world)
        print(f"logistic regression on all inputs: AUC {score:.4f}, {best - score:.4f} below")
    if "hidden" not in skip:
        for name, score in hidden(data).items():
            print(f"hidden: {name:32s} AUC {score:.4f}, {best - score:.4f} below the best")


if __name__ == "__main__":
    main()

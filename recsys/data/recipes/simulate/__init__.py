"""A simulated log of several surfaces whose true probabilities are known.

`simulate(out, options)` writes the request table of a world small enough to be learned from about a
million candidates and hard enough to tell models apart. What is best reachable on it is measured
and written down, so that a model can be judged against the truth and not only against another.
"""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from recsys.data.recipes.simulate.configuration import configuration
from recsys.data.recipes.simulate.options import SimulateOptions
from recsys.data.recipes.simulate.sessions import Log, simulate_sessions
from recsys.data.recipes.simulate.table import SCHEMA, request_table
from recsys.data.recipes.simulate.truth import BestReachable, print_best
from recsys.data.recipes.simulate.users import (
    DAY_MS,
    START_MS,
    TRAIN_DAYS,
    VALID_DAYS,
    Activity,
    Users,
    draw_users,
)
from recsys.data.recipes.simulate.world import SECOND_TASKS, TASKS, Ints, World
from recsys.data.recipes.simulate.write import SplitWriter
from recsys.errors import UserError
from recsys.files import whole_folder, write_json, write_text

__all__ = ["SimulateOptions", "print_best", "simulate"]

SPLITS = ("train", "valid", "test")
# Requests simulated at once, on average, and requests turned into a table at once, at most.
CHUNK_REQUESTS = 4_096
PIECE_REQUESTS = 2_048


def simulate(out: Path, options: SimulateOptions) -> dict[str, Any]:
    """Writes `out/{train,valid,test}/part-*.parquet`, `out/recipe.json` and `out/config.yaml`.

    Splits are days: 24 of train, 3 of valid, 3 of test. Memory does not grow with the number of
    requests. Returns what recipe.json holds: the options, requests and candidates a split, and the
    best reachable AUC, NE and PCOC of each split, surface and task.

    Raises:
        UserError: if `out` exists already and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists; give another folder or remove this one")
    world = World(options)
    best = BestReachable(SPLITS, world.surfaces.names)
    requests = dict.fromkeys(SPLITS, 0)
    candidates = dict.fromkeys(SPLITS, 0)
    console = Console(stderr=True)
    with whole_folder(out) as folder, ExitStack() as stack:
        progress = stack.enter_context(Progress(console=console))
        bar = progress.add_task("Simulating requests", total=options.requests)
        writers = [
            stack.enter_context(
                SplitWriter(
                    folder / split, SCHEMA, options.row_group_requests, options.file_requests
                )
            )
            for split in SPLITS
        ]
        for chunk in range(chunk_count(options)):
            users, log, request_id = simulate_chunk(world, chunk)
            for part in log.pieces(PIECE_REQUESTS):
                piece = log.rows(part)
                table = request_table(world, users, piece, request_id[part])
                for number, split in enumerate(SPLITS):
                    rows = np.flatnonzero(split_of(piece.time) == number)
                    writers[number].write(table.take(rows))
                    requests[split] += len(rows)
                    candidates[split] += _add(best, number, world, piece, rows)
            progress.update(bar, advance=len(request_id))
        for writer in writers:
            writer.close()
        summary = {
            "recipe": "simulate",
            "options": {
                **asdict(options), "users": options.user_count, "items": options.item_count
            },
            "requests": requests,
            "candidates": candidates,
            "best_reachable": best.report(),
        }  # fmt: skip
        write_json(folder / "recipe.json", summary)
        write_text(folder / "config.yaml", configuration(str(out), options))
    return summary


def chunk_count(options: SimulateOptions) -> int:
    return -(-options.user_count // _users_a_chunk(options))


def simulate_chunk(world: World, chunk: int, keep_terms: bool = False) -> tuple[Users, Log, Ints]:
    """Users, log and request ids of one chunk of users, by user and time.

    A chunk depends on the options and its own number only.
    """
    options = world.options
    rng = np.random.default_rng([options.seed, 1, chunk])
    size = _users_a_chunk(options)
    user_id = np.arange(chunk * size, min(options.user_count, (chunk + 1) * size))
    first, requests = Activity(options.user_count, options.requests).of(user_id)
    users = draw_users(world, rng, user_id, requests)
    if options.drift:  # the same users on other days
        rng = np.random.default_rng([options.seed, 2, chunk])
    log = simulate_sessions(world, users, rng, keep_terms)
    within = np.arange(len(log.time)) - np.repeat(np.cumsum(requests) - requests, requests)
    return users, log, np.repeat(first, requests) + within


def split_of(time: Ints) -> Ints:
    """0, 1 or 2 (train, valid, test) of each time in ms."""
    day = (time - START_MS) // DAY_MS
    return (day >= TRAIN_DAYS).astype(np.int64) + (day >= TRAIN_DAYS + VALID_DAYS)


def _users_a_chunk(options: SimulateOptions) -> int:
    return max(1, CHUNK_REQUESTS * options.user_count // options.requests)


def _add(best: BestReachable, split: int, world: World, log: Log, rows: Ints) -> int:
    """Adds the candidates of `rows` to `best`; returns how many there are."""
    shown = log.shown[rows]
    surface = np.broadcast_to(log.surface[rows][:, None], shown.shape)[shown]
    best.add(split, surface, 0, log.click_p[rows][shown], log.click[rows][shown].astype(np.int64))
    p, label = log.second_p[rows][shown], log.second[rows][shown].astype(np.int64)
    for number, task in enumerate(SECOND_TASKS):
        has = world.surfaces.second_task[surface] == number
        best.add(split, surface[has], TASKS.index(task), p[has], label[has])
    return int(shown.sum())

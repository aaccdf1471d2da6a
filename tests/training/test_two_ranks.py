"""What two ranks do together equals what one rank does alone: two real processes over gloo."""

from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.assemble import empty_batch
from recsys.data.layout import Layout
from recsys.errors import RunError
from recsys.training.ranks import start_ranks
from recsys.training.sharded import unwrap
from tests.model.requests import Request, collate, random_config, random_requests
from tests.training.steps import (
    assert_close,
    gradients,
    stepper_of,
    take_step,
    training_config,
    weights,
    whole_weights,
)
from tests.two_ranks import TwoRanks

# Large epsilons make both optimizers smooth in the gradient, nearly plain gradient descent: as they
# are by default, a rounding error of a gradient that is nearly zero becomes a whole step.
SMOOTH: dict[str, Any] = {
    "sparse": {"lr": 1.0, "eps": 1.0},
    "dense": {"lr": 0.5, "eps": 1.0, "warmup_steps": 0, "weight_decay": 0.01, "clip_norm": 5.0},
}
SURFACES = ["home", "search", "related"]


def halves(seed: int, how: str) -> tuple[list[Request], list[Request]]:
    """The requests of a step, divided between two ranks."""
    config = training_config(seed)
    requests = random_requests(config, 16, seed + 50)
    if how == "mixed":
        return requests[:5], requests[5:]
    if how == "surface on one rank":
        searches = [r for r in requests if r["surface"] == "search"]
        others = [r for r in requests if r["surface"] != "search"]
        assert searches
        assert len({r["surface"] for r in others}) == 2
        return others, searches
    if how == "one rank is empty":
        return requests, []
    assert how == "a surface on no rank"
    present = [r for r in requests if r["surface"] != "search"]
    return present[::2], present[1::2]


HOWS = ["mixed", "surface on one rank", "one rank is empty", "a surface on no rank"]


def gradients_and_weights(seed: int, how: str, loss: str) -> tuple[dict, dict]:
    kind, _, balance = loss.partition(", ")
    config = training_config(seed, loss=kind, balance={"kind": balance or "fixed"}, **SMOOTH)
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks, seed)
        parts = halves(seed, how)
        requests = parts[ranks.rank] if ranks.world == 2 else [*parts[0], *parts[1]]
        found = gradients(stepper, collate(config, requests))
        return found, weights(stepper)


@pytest.mark.parametrize("loss", ["cell", "task", "task, uncertainty"])
@pytest.mark.parametrize("how", HOWS)
def test_gradients_of_halves_are_the_gradient_of_the_whole(
    two_ranks: TwoRanks, how: str, loss: str
) -> None:
    """Dense gradients, and the tables' update, which is fused into the backward pass."""
    seed = HOWS.index(how)
    expected, expected_weights = gradients_and_weights(seed, how, loss)
    (first, first_weights), (second, second_weights) = two_ranks.run(
        gradients_and_weights, seed, how, loss
    )
    assert max(np.abs(g).max() for g in expected.values() if g is not None) > 0.05
    assert ("log_variances" in expected) == ("uncertainty" in loss)
    assert_close(first, expected, atol=1e-5)
    assert_close(second, expected, atol=1e-5)
    together = whole_weights(first_weights, second_weights)
    assert_close(together, whole_weights(expected_weights), atol=1e-5)
    absent = ("towers.search.", "calibrators.search.")
    calibrators = {name for name in expected if name.startswith("calibrators.")}
    assert {name.split(".")[1] for name in calibrators} >= {
        "every_surface" if seed == HOWS.index("one rank is empty") else "search"
    }
    assert all(
        (gradient is None) == (how == "a surface on no rank")
        for name, gradient in expected.items()
        if name.startswith(absent) and "quantiles" not in name
    )


def several_steps(seed: int) -> dict[str, np.ndarray]:
    """Every division of rows in turn; a rank that has none takes the reader's empty batch."""
    config = training_config(seed, **SMOOTH)
    layout = Layout(config)
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks, seed)
        for number, how in enumerate([*HOWS, "one rank is empty", "mixed"]):
            parts = halves(seed + number, how)
            requests = parts[ranks.rank] if ranks.world == 2 else [*parts[0], *parts[1]]
            batch = collate(config, requests_of(requests)) if requests else empty_batch(layout)
            take_step(stepper, batch, number)
        return weights(stepper)


def requests_of(requests: list[Request]) -> list[Request]:
    """With ids that exist in the tables of every seed: tables differ in rows by seed."""
    return [_small_ids(request) for request in requests]


def _small_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _small_ids(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_small_ids(each) for each in value][:3]
    return value % 5 if isinstance(value, int) else value


@pytest.mark.parametrize("seed", [0, 10])
def test_steps_of_two_ranks_are_the_steps_of_one(two_ranks: TwoRanks, seed: int) -> None:
    expected = whole_weights(several_steps(seed))
    together = whole_weights(*two_ranks.run(several_steps, seed))
    assert_close(together, expected, atol=3e-5)


def without_a_surface(seed: int, absent: str) -> tuple[dict, dict]:
    """Weights before and after a step in which no rank has a row of `absent`."""
    dense = {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 0}
    config = training_config(seed, dense=dense)
    others = [surface for surface in SURFACES if surface != absent]
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks, seed)
        for step in range(3):
            requests = random_requests(config, 12, 10 * step + ranks.rank)
            take_step(stepper, collate(config, requests), step)
        before = weights(stepper)
        # Each rank has one of the other surfaces only.
        requests = random_requests(config, 6, 99 + ranks.rank, [others[ranks.rank]])
        take_step(stepper, collate(config, requests), 3)
        return before, weights(stepper)


@pytest.mark.parametrize("absent", SURFACES)
def test_a_tower_without_rows_on_any_rank_does_not_move(two_ranks: TwoRanks, absent: str) -> None:
    for before, after in two_ranks.run(without_a_surface, 0, absent):
        own = [name for name in before if name.startswith(f"towers.{absent}.")]
        assert own
        for name in own:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
        # A tower whose rows are on one rank moves on both, and by the same.
        for other in SURFACES:
            names = [name for name in before if name.startswith(f"towers.{other}.tower.heads")]
            moved = any(not np.array_equal(before[name], after[name]) for name in names)
            assert moved == (other != absent)


def late_only(how: str) -> dict[str, np.ndarray]:
    """Steps of a model with a collection that nothing reads but one surface's module."""
    document = random_config(0).model_dump(mode="json", by_alias=True)
    features, surfaces, tables = (document[key] for key in ("features", "surfaces", "tables"))
    tables["query"]["dim"] = 16  # the only table of this width that is read as a sequence
    features["candidate"]["query_of_item"] = {"id": "query", "surfaces": ["search"]}
    surfaces["search"]["tower"]["modules"][0]["inputs"].append("query_of_item")
    training = {**SMOOTH, "loss": "cell"}
    config = random_config(
        0, tables=tables, features=features, surfaces=surfaces, training=training
    )
    assert {c.name for c in Layout(config).ids_of("sequences_16")} == {"query", "query_of_item"}
    requests = random_requests(config, 12, 3)
    parts = (
        [r for r in requests if r["surface"] != "search"],
        [r for r in requests if r["surface"] == "search"],
    )
    assert all(parts)
    with start_ranks(20) as ranks:
        stepper = stepper_of(config, ranks)
        for number in range(2):
            mine = parts[ranks.rank] if ranks.world == 2 else requests
            if how == "empty" and ranks.world == 2:
                mine = requests if ranks.rank else []
            take_step(stepper, collate(config, mine), number)
        return weights(stepper)


@pytest.mark.parametrize("how", ["surface on one rank", "empty"])
def test_a_table_of_one_surface_whose_rows_are_on_one_rank(two_ranks: TwoRanks, how: str) -> None:
    """The other rank must enter the backward pass of its lookup too, or both wait for ever."""
    together = whole_weights(*two_ranks.run(late_only, how, timeout=60))
    assert_close(together, whole_weights(late_only(how)), atol=3e-5)


def faulty_step(seed: int) -> str:
    """The surface whose weights are broken has rows on rank 1 only."""
    config = training_config(seed)
    others, searches = halves(seed, "surface on one rank")
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks, seed)
        with torch.no_grad():
            unwrap(stepper.model).towers["search"].tower.heads["buy"].bias.fill_(float("inf"))
        try:
            take_step(stepper, collate(config, searches if ranks.rank else others), 4)
        except RunError as error:
            return str(error)
    return "no error"


def test_a_fault_of_one_rank_is_told_by_all(two_ranks: TwoRanks) -> None:
    """Or the others would wait for it in the backward pass, and rank 0 could not print it."""
    first, second = two_ranks.run(faulty_step, 1)
    assert first == second
    assert first.startswith("step 5: the loss is ")
    assert "surface search, task buy, row " in first
    assert "of rank 1;" in first


def totals_of(seed: int) -> list[Any]:
    config = training_config(seed)
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks, seed)
        batch = collate(config, random_requests(config, 4 + ranks.rank, 7 + ranks.rank))
        totals = stepper.totals(batch, ranks.rank == 1)
        own = stepper.loss.counts(batch.labels, batch.surface_index)
        return [batch.requests, batch.candidates, own.numpy(), totals.requests, totals.candidates,
                totals.label_counts.numpy(), totals.stop]  # fmt: skip


def test_ranks_agree_on_a_step(two_ranks: TwoRanks) -> None:
    first, second = two_ranks.run(totals_of, 0)
    for agreed in (first, second):
        assert agreed[3] == first[0] + second[0] == 9
        assert agreed[4] == first[1] + second[1]
        np.testing.assert_array_equal(agreed[5], first[2] + second[2])
        assert agreed[6] is True  # one rank was asked to stop

"""Single training steps in one process."""

import numpy as np
import pytest
import torch

from recsys.data.layout import Layout
from recsys.errors import RunError
from recsys.training.ranks import start_ranks
from recsys.training.step import Lockstep
from tests.model.requests import collate, random_config, random_requests
from tests.training.steps import stepper_of, take_step, training_config, weights

SURFACES = ["home", "search", "related"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("absent", SURFACES)
def test_a_tower_without_rows_does_not_move(seed: int, absent: str) -> None:
    """After momentum has built up, and with weight decay: neither may move what had no rows."""
    config = training_config(seed, dense={"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 0})
    others = [surface for surface in SURFACES if surface != absent]
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks, seed)
        for step in range(3):
            take_step(stepper, collate(config, random_requests(config, 12, step)), step)
        before = weights(stepper)
        moments = {k: v.clone() for k, v in stepper.dense.state_dict().items()}
        take_step(stepper, collate(config, random_requests(config, 12, 9, others)), 3)
        after = weights(stepper)
        later = stepper.dense.state_dict()
    prefixes = (f"towers.{absent}.", f"calibrators.{absent}.")
    own = [name for name in before if name.startswith(prefixes)]
    assert {name.split(".")[0] for name in own} == {"towers", "calibrators"}
    for name in own:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    momenta = {name: m for name, m in moments.items() if name.startswith(prefixes)}
    assert any(name.endswith("exp_avg") and bool((m != 0).any()) for name, m in momenta.items())
    for name, value in momenta.items():
        assert torch.equal(value, later[name]), name
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    for other in others:
        assert any(name.startswith(f"towers.{other}.") for name in moved)
        assert any(name.startswith(f"calibrators.{other}.") for name in moved)
    assert any(name.startswith("trunk.") for name in moved)
    assert any(name.startswith("lookup.") for name in moved)


@pytest.mark.parametrize("kind", ["platt", "isotonic", "global"])
def test_training_takes_the_same_steps_with_calibrators_and_without(kind: str) -> None:
    """Bit for bit, also where the gradient is clipped and weights decay."""
    found = {}
    for each in ("none", kind):
        document = training_config(1).model_dump(mode="json", by_alias=True)
        document["model"]["calibration"]["kind"] = each
        dense = {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 0, "clip_norm": 0.1}
        config = random_config(1, model=document["model"], training={"dense": dense})
        with start_ranks(60) as ranks:
            stepper = stepper_of(config, ranks, 1)
            for step in range(4):
                take_step(stepper, collate(config, random_requests(config, 12, step)), step)
            found[each] = weights(stepper)
    own = {name for name in found[kind] if name.startswith("calibrators.")}
    assert own
    assert found[kind].keys() - own == found["none"].keys()
    for name, value in found["none"].items():
        np.testing.assert_array_equal(value, found[kind][name], err_msg=name)


def test_rows_that_no_request_reads_do_not_move() -> None:
    config = training_config(0)
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks)
        before = weights(stepper)
        batch = collate(config, random_requests(config, 3, 0, ["search"]))
        take_step(stepper, batch, 0)
        after = weights(stepper)
    (name,) = (name for name in before if "embedding_bags.query.weight" in name)
    features = {
        key: each for jagged in batch.sparse.values() for key, each in jagged.to_dict().items()
    }
    read = set(features["request.query"].values().tolist())
    moved = set(np.flatnonzero((before[name] != after[name]).any(axis=1)).tolist())
    assert moved == read


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_lower_the_loss(precision: str) -> None:
    config = training_config(
        2, precision=precision, dense={"lr": 0.01, "warmup_steps": 0}, sparse={"lr": 0.1}
    )
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks)
        batch = collate(config, random_requests(config, 12, 2))
        losses = [
            float(stepper.step(batch, stepper.totals(batch, False), i, 0.0).loss) for i in range(15)
        ]
    assert losses[-1] < 0.8 * losses[0]


def test_an_empty_batch_steps_and_moves_nothing() -> None:
    config = training_config(1, dense={"weight_decay": 0.0})
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks)
        take_step(stepper, collate(config, random_requests(config, 8, 1)), 0)
        before = weights(stepper)
        empty = collate(config, [])
        assert empty.requests == empty.candidates == 0
        totals = stepper.totals(empty, True)
        assert (totals.requests, totals.candidates, totals.stop) == (0, 0, True)
        gradients = stepper.step(empty, totals, 1, 0.0)
        assert float(gradients.loss) == 0
        after = weights(stepper)
    for name, value in before.items():
        if not name.startswith("trunk."):  # its momentum goes on: its gradient is a true zero
            np.testing.assert_array_equal(value, after[name], err_msg=name)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_loss_that_is_not_finite_stops_before_any_weight_moves(value: float) -> None:
    config = training_config(0)
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks)
        batch = collate(config, random_requests(config, 12, 0))
        with torch.no_grad():
            stepper.model.module.towers["search"].tower.heads["buy"].bias.fill_(value)
        before = weights(stepper)
        s, t = SURFACES.index("search"), config.tasks.index("buy")
        known = ~batch.labels[:, t].isnan() & (batch.surface_index == s)
        row = int(known.nonzero()[0])
        with pytest.raises(RunError) as caught:
            take_step(stepper, batch, 6)
        message = str(caught.value)
        assert message.startswith("step 7: the loss is ")
        assert f"surface search, task buy, row {row} of the batch" in message
        assert f"logit {value}, label {float(batch.labels[row, t])}" in message
        assert "training.dense.lr" in message
        after = weights(stepper)
    for name, weight in before.items():
        np.testing.assert_array_equal(weight, after[name], err_msg=name)


def test_lockstep_goes_on_with_empty_batches() -> None:
    config = training_config(0)
    assert Layout(config).surfaces == tuple(SURFACES)
    batches = [collate(config, random_requests(config, 2, i)) for i in range(2)]
    empty = collate(config, [])
    walk = iter(Lockstep(iter(batches), empty, torch.device("cpu")))
    assert [next(walk).requests for _ in range(5)] == [2, 2, 0, 0, 0]

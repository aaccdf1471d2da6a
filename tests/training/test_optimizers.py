"""The two optimizers, their schedule, and that each parameter has exactly one."""

import numpy as np
import pytest
import torch
from torch import nn

from recsys.config.training import BalanceConfig, CalibratorsConfig, DenseConfig
from recsys.training.optimizers import (
    DenseOptimizer,
    check_one_optimizer_each,
    decay,
    dense_parameters,
)
from recsys.training.ranks import start_ranks
from tests.model.requests import collate, random_requests
from tests.training.steps import stepper_of, training_config, weights


def a_parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


def test_the_rate_warms_up_and_decays() -> None:
    config = DenseConfig(lr=2.0, warmup_steps=4, decay="linear")
    optimizer = DenseOptimizer({"p": a_parameter(2)}, config)
    assert [optimizer.rate(step, 0.0) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert optimizer.rate(10, 0.75) == 0.5
    assert (
        DenseOptimizer({"p": a_parameter(2)}, DenseConfig(lr=2.0, warmup_steps=0)).rate(0, 1) == 2
    )


@pytest.mark.parametrize(
    ("kind", "at", "factor"),
    [
        ("none", 0.7, 1.0),
        ("linear", 0.25, 0.75),
        ("linear", 1.5, 0.0),
        ("linear", -0.5, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
    ],
)
def test_decay(kind: str, at: float, factor: float) -> None:
    assert decay(kind, at) == pytest.approx(factor, abs=1e-12)


def test_steps_are_those_of_adamw_with_clipping() -> None:
    config = DenseConfig(lr=0.1, warmup_steps=0, clip_norm=0.5, weight_decay=0.1)
    mine, reference = a_parameter(3, 2), a_parameter(3, 2)
    optimizer = DenseOptimizer({"p": mine}, config)
    adam = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.1, eps=config.eps)
    for step in range(4):
        gradient = torch.randn(3, 2, generator=torch.Generator().manual_seed(step))
        mine.grad, reference.grad = gradient.clone(), gradient.clone()
        norm = optimizer.step(step, 0.0)
        assert float(norm) == pytest.approx(float(gradient.norm()), rel=1e-5)
        nn.utils.clip_grad_norm_([reference], 0.5)
        adam.step()
        assert mine.grad is None
    torch.testing.assert_close(mine, reference)


def test_the_norm_is_over_all_parameters_and_clipping_can_be_left_out() -> None:
    first, second = a_parameter(2), a_parameter(2)
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer = DenseOptimizer({"a": first, "b": second}, DenseConfig())
    assert float(optimizer.step(0, 0.0)) == 5.0
    assert DenseOptimizer({"a": first}, DenseConfig(clip_norm=None)).step(0, 0.0) is None


@pytest.mark.parametrize("name", ["calibrators.home.bias", "log_variances"])
def test_calibrators_and_variances_have_a_rate_of_their_own_and_nothing_else(name: str) -> None:
    """No warm-up, no weight decay, no clipping, no part in the norm; the decay is everyone's."""
    config = DenseConfig(lr=0.1, warmup_steps=50, clip_norm=1e-3, weight_decay=0.5, decay="linear")
    network, mine, reference = a_parameter(2), a_parameter(3), a_parameter(3)
    parameters = {"trunk.w": network, name: mine}
    own = CalibratorsConfig(lr=0.03), BalanceConfig(lr=0.04)
    optimizer = DenseOptimizer(parameters, config, *own)
    lr = 0.04 if name == "log_variances" else 0.03
    adam = torch.optim.Adam([reference], lr=lr * 0.75, eps=config.eps)
    for step in range(4):
        gradient = torch.randn(3, generator=torch.Generator().manual_seed(step))
        mine.grad, reference.grad = gradient.clone(), gradient.clone()
        network.grad = torch.tensor([3.0, 4.0])
        assert float(optimizer.step(step, 0.25)) == 5.0
        adam.step()
    torch.testing.assert_close(mine, reference)


def test_a_parameter_without_a_gradient_stays_bit_for_bit() -> None:
    config = DenseConfig(lr=0.1, warmup_steps=0, weight_decay=0.5)
    parameter = a_parameter(4)
    optimizer = DenseOptimizer({"p": parameter}, config)
    for step in range(3):
        parameter.grad = torch.ones(4)
        optimizer.step(step, 0.0)
    before = parameter.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    optimizer.step(3, 0.0)
    assert torch.equal(parameter, before)
    assert all(torch.equal(value, state[n]) for n, value in optimizer.state_dict().items())


def test_the_state_exists_from_the_start_and_is_loaded_by_copying() -> None:
    first, second = (DenseOptimizer({"p": a_parameter(3)}, DenseConfig()) for _ in range(2))
    assert set(first.state_dict()) == {"p.step", "p.exp_avg", "p.exp_avg_sq"}
    first.parameters["p"].grad = torch.ones(3)
    first.step(0, 0.0)
    for name, value in second.state_dict().items():
        value.copy_(first.state_dict()[name])
    second.parameters["p"].data.copy_(first.parameters["p"].data)
    for optimizer in (first, second):
        optimizer.parameters["p"].grad = torch.full((3,), 0.5)
        optimizer.step(1, 0.0)
    assert torch.equal(first.parameters["p"], second.parameters["p"])


def test_tables_are_updated_by_row_wise_adagrad() -> None:
    """w −= lr · g / (√(Σ mean g²) + ε), against gradients of the plain model."""
    config = training_config(3, sparse={"lr": 0.3, "eps": 0.01})
    name = "lookup.collections.request_bags.embedding_bags.user.weight"
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks)
        before = weights(stepper)[f"{name}@0,0"]
        accumulated = np.zeros(len(before))
        for step in range(3):
            batch = collate(config, random_requests(config, 8, step))
            gradient = table_gradient(stepper, batch, "request.user_id")
            stepper.step(batch, stepper.totals(batch, False), step, 0.0)
            accumulated += (gradient**2).mean(axis=1)
            before = before - 0.3 * gradient / (np.sqrt(accumulated) + 0.01)[:, None]
            np.testing.assert_allclose(weights(stepper)[f"{name}@0,0"], before, rtol=0, atol=1e-5)


def table_gradient(stepper, batch, key):  # type: ignore[no-untyped-def]
    """The gradient of the loss in a request table, by way of the rows that were looked up."""
    model = stepper.model.module
    rows = {k: v.detach().requires_grad_() for k, v in model.lookup(batch).items()}
    lookup = model.lookup.forward
    model.lookup.forward = lambda _: rows
    try:
        totals = stepper.totals(batch, False)
        logits = stepper.model(batch)
        losses = stepper.loss(logits, batch.labels, batch.surface_index, totals.label_counts)
        (gradient,) = torch.autograd.grad(losses.total, rows[key])
    finally:
        model.lookup.forward = lookup
    table = stepper.config.tables["user"]
    ids = batch.sparse["request_bags"].to_dict()[key].values()
    whole = torch.zeros(table.rows + 1, table.dim).index_add(0, ids, gradient)
    return whole.double().numpy()


@pytest.mark.parametrize("progress", [0.25, 0.9])
def test_the_decay_of_the_tables_rate_acts_on_the_very_step(progress: float) -> None:
    """A rate that came one step late would not survive a resume."""
    moved = {}
    for at in (0.0, progress):
        config = training_config(0, dense={"decay": "linear"})
        with start_ranks(60) as ranks:
            stepper = stepper_of(config, ranks)
            before = weights(stepper)
            batch = collate(config, random_requests(config, 8, 0))
            stepper.step(batch, stepper.totals(batch, False), 0, at)
            after = weights(stepper)
        moved[at] = {n: after[n] - before[n] for n in before if n.startswith("lookup.")}
    for name, full in moved[0.0].items():
        assert np.abs(full).max() > 0
        np.testing.assert_allclose(
            moved[progress][name], (1 - progress) * full, rtol=0, atol=1e-6, err_msg=name
        )


def test_each_parameter_is_in_exactly_one_optimizer() -> None:
    config = training_config(0)
    with start_ranks(60) as ranks:
        model = stepper_of(config, ranks).model
        dense = dense_parameters(model)
        assert not any(name.startswith("lookup.") for name in dense)
        assert set(dense) | set(model.fused_optimizer.params) == {
            name for name, _ in model.named_parameters()
        }
        check_one_optimizer_each(model, dense)
        some = dict(list(dense.items())[1:])
        with pytest.raises(RuntimeError, match=r"is updated by no optimizer; is its plan data_par"):
            check_one_optimizer_each(model, some)
        table = next(iter(model.fused_optimizer.params))
        with pytest.raises(RuntimeError, match=f"{table} is updated by two optimizers"):
            check_one_optimizer_each(model, {**dense, table: dict(model.named_parameters())[table]})

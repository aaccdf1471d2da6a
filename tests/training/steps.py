"""A stepper on random weights, for tests of single steps."""

from typing import Any

import numpy as np
import torch

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.training.optimizers import (
    DenseOptimizer,
    SparseRate,
    check_one_optimizer_each,
    dense_parameters,
)
from recsys.training.ranks import Ranks
from recsys.training.step import Stepper
from tests.model.models import plain_model, sharded_model
from tests.model.requests import random_config


def training_config(seed: int, **training: Any) -> Config:
    return random_config(seed, training=training)


def stepper_of(config: Config, ranks: Ranks, seed: int = 0) -> Stepper:
    """Everything that a step needs, the model with `plain_model`'s weights."""
    model = sharded_model(config, ranks, plain_model(config, seed))
    parameters = dense_parameters(model)
    check_one_optimizer_each(model, parameters)
    section = config.training
    dense = DenseOptimizer(parameters, section.dense, section.calibration, section.balance)
    sparse = SparseRate(model, config.training.sparse.lr, config.training.dense.decay)
    return Stepper(model, dense, sparse, config, ranks)


def take_step(stepper: Stepper, batch: Batch, number: int) -> None:
    stepper.step(batch, stepper.totals(batch, False), number, 0.0)


def gradients(stepper: Stepper, batch: Batch) -> dict[str, np.ndarray | None]:
    """The dense gradients of one backward pass; it updates the tables, as they are fused."""
    totals = stepper.totals(batch, False)
    stepper.forward(batch, totals, 0, 0.0).objective.backward()
    return {
        name: None if parameter.grad is None else parameter.grad.numpy().copy()
        for name, parameter in stepper.dense.parameters.items()
    }


def weights(stepper: Stepper) -> dict[str, np.ndarray]:
    """The weights that this rank holds. A shard is named by its table, first row and column."""
    found = {}
    for name, value in stepper.model.state_dict().items():
        shards = getattr(value, "local_shards", None)
        if shards is None:
            found[name] = value.detach().numpy().copy()
            continue
        for shard in shards():
            row, column = shard.metadata.shard_offsets
            found[f"{name}@{row},{column}"] = shard.tensor.detach().numpy().copy()
    return found


def whole_weights(*ranks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of all ranks, shards put together (row-wise and table-wise ones)."""
    merged: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
    for found in ranks:
        for name, value in found.items():
            table, at, offsets = name.partition("@")
            if at:
                row, column = (int(x) for x in offsets.split(","))
                assert column == 0
                if value.size:
                    parts.setdefault(table, {})[row] = value
            else:
                if name in merged:
                    np.testing.assert_array_equal(merged[name], value, err_msg=name)
                merged[name] = value
    for table, shards in parts.items():
        merged[table] = np.concatenate([shards[row] for row in sorted(shards)])
    return merged


def assert_close(
    actual: dict[str, np.ndarray | None], expected: dict[str, np.ndarray | None], atol: float
) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        other = actual[name]
        assert (other is None) == (value is None), name
        if value is not None and other is not None:
            np.testing.assert_allclose(other, value, rtol=0, atol=atol, err_msg=name)


def seeded(seed: int) -> None:
    torch.manual_seed(seed)

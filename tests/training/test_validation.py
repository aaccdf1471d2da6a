"""What early stopping looks at."""

from typing import Any

import pytest
import torch

from recsys.config import Config
from recsys.data.fit import fit
from recsys.training.ranks import start_ranks
from recsys.training.sharded import build_sharded_model
from recsys.training.validation import is_better, monitored, validate


def metrics(**tasks: float | None) -> dict[str, Any]:
    return {"all": {"tasks": {task: {"auc": value} for task, value in tasks.items()}}}


def test_the_mean_over_tasks_that_have_a_value() -> None:
    assert monitored(metrics(click=0.5, like=0.75), "auc") == 0.625
    assert monitored(metrics(click=0.5, like=None), "auc") == 0.5
    assert monitored(metrics(click=None), "auc") is None


@pytest.mark.parametrize(
    ("monitor", "value", "best", "better"),
    [
        ("auc", 0.6, None, True),
        ("auc", 0.6, 0.5, True),
        ("auc", 0.5, 0.5, False),
        ("auc", 0.4, 0.5, False),
        ("ne", 0.8, 0.9, True),
        ("logloss", 0.9, 0.8, False),
        ("ne", 0.9, 0.9, False),
    ],
)
def test_better_is_higher_for_auc_and_lower_for_losses(
    monitor: str, value: float, best: float | None, better: bool
) -> None:
    assert is_better(value, best, monitor) is better


def test_validation_leaves_no_cached_row_locked(small: Config) -> None:
    """FBGEMM locks them on a GPU only: on a CPU its counters are there, and set by the test."""
    with start_ranks(60) as ranks:
        model, plan = build_sharded_model(small, ranks)
        kernels = [
            kernel
            for module in model.modules()
            for lookup in getattr(module, "_lookups", ())
            for kernel in lookup.modules()
            if hasattr(kernel, "lxu_cache_locking_counter")
        ]
        assert 0 < len(kernels) <= len(plan.tables)
        for kernel in kernels:
            kernel.lxu_cache_locking_counter = torch.ones(2, 32, dtype=torch.int32)
        assert validate(model, small, fit(small), ranks) is not None
    assert not any(bool(kernel.lxu_cache_locking_counter.any()) for kernel in kernels)

"""What early stopping looks at."""

from typing import Any

import pytest

from recsys.training.validation import is_better, monitored


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

"""Streaming metrics against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from recsys.training.streaming import StreamingMetrics

SURFACES, TASKS = ["home", "search"], ["click", "buy"]
EXISTS = torch.tensor([[True, True], [True, False]])
CPU = torch.device("cpu")
Rows = tuple[Tensor, Tensor, Tensor]


def empty() -> StreamingMetrics:
    return StreamingMetrics(SURFACES, TASKS, EXISTS, CPU)


def random_rows(seed: int, count: int = 4000, scale: float = 2.0) -> Rows:
    draw = np.random.default_rng(seed)
    logits = draw.normal(-1, scale, (count, 2)).astype(np.float32)
    labels = (draw.random((count, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[draw.random((count, 2)) < 0.2] = np.nan
    surfaces = draw.integers(0, 2, count)
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(surfaces)


def expected_metrics(z: np.ndarray, y: np.ndarray) -> dict[str, float]:
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    rate = y.mean()
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    logloss = log_loss(y, p, labels=[0, 1])
    return {
        "rows": len(y),
        "positives": int(y.sum()),
        "auc": roc_auc_score(y, z),
        "logloss": logloss,
        "ne": logloss / entropy,
        "pcoc": p.sum() / y.sum(),
    }


def check(found: dict, z: np.ndarray, y: np.ndarray) -> None:
    expected = expected_metrics(z, y)
    assert found.keys() == expected.keys()
    assert found["auc"] == pytest.approx(expected.pop("auc"), abs=1e-3)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_scikit_learns(seed: int) -> None:
    logits, labels, surfaces = random_rows(seed)
    metrics = empty()
    for part in torch.arange(len(logits)).split(700):
        metrics.update(logits[part], labels[part], surfaces[part])
    found = metrics.compute()
    assert list(found["surfaces"]) == SURFACES
    assert list(found["surfaces"]["search"]["tasks"]) == ["click"]  # it has no other task
    z, y, s = logits.numpy(), labels.numpy(), surfaces.numpy()
    for i, surface in enumerate(SURFACES):
        for t, task in enumerate(TASKS):
            if EXISTS[i, t]:
                rows = (s == i) & ~np.isnan(y[:, t])
                check(found["surfaces"][surface]["tasks"][task], z[rows, t], y[rows, t])
    for t, task in enumerate(TASKS):
        rows = ~np.isnan(y[:, t]) & EXISTS.numpy()[s, t]
        check(found["all"]["tasks"][task], z[rows, t], y[rows, t])


def test_ranks_add_up() -> None:
    logits, labels, surfaces = random_rows(5)
    whole, first, second = empty(), empty(), empty()
    whole.update(logits, labels, surfaces)
    first.update(logits[:100], labels[:100], surfaces[:100])
    second.update(logits[100:], labels[100:], surfaces[100:])

    def total(state: Tensor) -> Tensor:
        state += second.state
        return state

    first.reduce(total)
    expected, found = whole.compute(), first.compute()
    for task, values in expected["all"]["tasks"].items():
        assert found["all"]["tasks"][task] == pytest.approx(values, rel=1e-12)


def test_scores_beyond_the_histogram_keep_exact_losses() -> None:
    logits = torch.tensor([[50.0, 0.0], [-50.0, 0.0], [90.0, 0.0]])
    labels = torch.tensor([[0.0, math.nan], [0.0, math.nan], [1.0, math.nan]])
    metrics = empty()
    metrics.update(logits, labels, torch.zeros(3, dtype=torch.long))
    found = metrics.compute()["surfaces"]["home"]["tasks"]["click"]
    assert found["logloss"] == pytest.approx(50 / 3)
    assert found["auc"] == 0.75  # 50 and 90 share the last bin: a tie


def test_no_row_one_class_and_soft_labels() -> None:
    metrics = empty()
    nothing = {"rows": 0, "positives": 0, "auc": None, "logloss": None, "ne": None, "pcoc": None}
    assert metrics.compute()["all"]["tasks"]["click"] == nothing
    zero = torch.zeros(2, 2)
    metrics.update(zero, torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    found = metrics.compute()["surfaces"]["home"]["tasks"]["click"]
    assert (found["rows"], found["auc"], found["ne"], found["pcoc"]) == (2, None, None, None)
    assert found["logloss"] == pytest.approx(math.log(2))
    metrics.update(zero[:1], torch.full((1, 2), 0.5), torch.zeros(1, dtype=torch.long))
    found = metrics.compute()["surfaces"]["home"]["tasks"]["click"]
    assert found["rows"] == 3
    assert found["positives"] == 0.5
    assert found["auc"] == 0.5

"""The loss against its formula, computed cell by cell."""

import math
import random

import pytest
import torch

from recsys.config import Config
from recsys.training.loss import CellLoss, describe_fault
from tests.model.models import uncalibrated
from tests.model.requests import random_config

CPU = torch.device("cpu")


def random_rows(config: Config, rows: int, seed: int) -> tuple[list, list, list]:
    """Logits, labels (None = unknown) and surfaces; labels also where the surface has no task."""
    draw = random.Random(seed)
    tasks = range(len(config.tasks))
    logits = [[draw.gauss(0, 3) for _ in tasks] for _ in range(rows)]
    labels = [[draw.choice([0.0, 1.0, None, 0.25]) for _ in tasks] for _ in range(rows)]
    surfaces = [draw.randrange(len(config.surfaces)) for _ in range(rows)]
    return logits, labels, surfaces


def tensors(logits: list, labels: list, surfaces: list) -> tuple[torch.Tensor, ...]:
    nan = float("nan")
    filled = [[nan if y is None else y for y in row] for row in labels]
    return torch.tensor(logits), torch.tensor(filled), torch.tensor(surfaces)


def loss_by_hand(config: Config, logits: list, labels: list, surfaces: list) -> float:
    names = list(config.surfaces)
    cells: dict[tuple[str, str], list[float]] = {}
    for z_row, y_row, s in zip(logits, labels, surfaces, strict=True):
        for t, task in enumerate(config.tasks):
            if task not in config.surfaces[names[s]].tasks or y_row[t] is None:
                continue
            p = 1 / (1 + math.exp(-z_row[t]))
            bce = -y_row[t] * math.log(p) - (1 - y_row[t]) * math.log(1 - p)
            cells.setdefault((names[s], task), []).append(bce)
    total = 0.0
    for (surface, task), found in cells.items():
        weight = config.surfaces[surface].weight * config.surfaces[surface].tasks[task]
        count = len(found)
        if config.training.loss == "task":
            count = sum(len(v) for (_, t), v in cells.items() if t == task)
        total += weight * sum(found) / count
    return total


@pytest.mark.parametrize("kind", ["cell", "task"])
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_its_formula(kind: str, seed: int) -> None:
    config = random_config(seed, training={"loss": kind})
    rows = random_rows(config, 30, seed)
    logits, labels, surfaces = tensors(*rows)
    loss = CellLoss(config, CPU)
    counts = loss.counts(labels, surfaces)
    losses = loss(uncalibrated(logits), labels, surfaces, counts)
    assert float(losses.total) == pytest.approx(loss_by_hand(config, *rows), rel=1e-5)
    assert torch.equal(losses.counts, counts)
    for s, surface in enumerate(config.surfaces.values()):
        for t, task in enumerate(config.tasks):
            known = int((~labels[surfaces == s, t].isnan()).sum()) if task in surface.tasks else 0
            assert int(counts[s, t]) == known


@pytest.mark.parametrize("kind", ["cell", "task"])
def test_shares_of_two_ranks_average_to_the_whole(kind: str) -> None:
    config = random_config(1, training={"loss": kind})
    logits, labels, surfaces = tensors(*random_rows(config, 24, 1))
    alone, rank = CellLoss(config, CPU), CellLoss(config, CPU, world=2)
    counts = alone.counts(labels, surfaces)
    whole = alone(uncalibrated(logits), labels, surfaces, counts).total
    parts = [
        rank(uncalibrated(logits[rows]), labels[rows], surfaces[rows], counts).total
        for rows in (slice(0, 5), slice(5, 24))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["cell", "task"])
@pytest.mark.parametrize("seed", range(2))
def test_learned_variances_are_in_the_loss_of_each_label(kind: str, seed: int) -> None:
    config = random_config(seed, training={"loss": kind})
    rows = random_rows(config, 30, seed)
    logits, labels, surfaces = tensors(*rows)
    loss, rank = CellLoss(config, CPU), CellLoss(config, CPU, world=2)
    counts = loss.counts(labels, surfaces)
    drawn = torch.Generator().manual_seed(seed)
    v = torch.randn(counts.shape, generator=drawn, requires_grad=True)
    whole = loss(uncalibrated(logits)._replace(log_variances=v), labels, surfaces, counts)
    sums = loss(uncalibrated(logits), labels, surfaces, counts).sums
    assert torch.equal(whole.sums, sums)
    expected = 0.0
    for s, surface in enumerate(config.surfaces.values()):
        for t, task in enumerate(config.tasks):
            if task not in surface.tasks:
                continue
            divisor = counts[:, t].sum() if kind == "task" else counts[s, t]
            own = float(v.detach()[s, t])
            each = math.exp(-own) * float(sums[s, t]) + own / 2 * float(counts[s, t])
            expected += surface.weight * surface.tasks[task] * each / max(1.0, float(divisor))
    assert float(whole.total.detach()) == pytest.approx(expected, rel=1e-5)
    parts = []
    for own in (slice(0, 11), slice(11, 30)):
        found = uncalibrated(logits[own])._replace(log_variances=v)
        parts.append(rank(found, labels[own], surfaces[own], counts).total)
    torch.testing.assert_close(sum(parts) / 2, whole.total)  # type: ignore[operator]


def test_learned_variances_come_to_rest_at_twice_the_loss() -> None:
    """Where every cell weighs its α_s w_st times one half."""
    config = random_config(1, training={"loss": "cell"})
    logits, labels, surfaces = tensors(*random_rows(config, 60, 1))
    loss = CellLoss(config, CPU)
    counts = loss.counts(labels, surfaces)
    sums = loss(uncalibrated(logits), labels, surfaces, counts).sums
    v = (2 * sums / counts.clamp(min=1)).log().nan_to_num(neginf=0.0).requires_grad_()
    found = uncalibrated(logits)._replace(log_variances=v)
    loss(found, labels, surfaces, counts).total.backward()
    assert v.grad is not None
    torch.testing.assert_close(v.grad, torch.zeros_like(v), rtol=0, atol=1e-6)
    weighted = ((-v).exp() * sums / counts.clamp(min=1)).detach()[loss.exists]
    torch.testing.assert_close(weighted, torch.full_like(weighted, 0.5))


def test_unknown_labels_and_missing_tasks_have_no_gradient() -> None:
    config = random_config(2)
    logits, labels, surfaces = tensors(*random_rows(config, 40, 2))
    logits.requires_grad_()
    loss = CellLoss(config, CPU)
    loss(uncalibrated(logits), labels, surfaces, loss.counts(labels, surfaces)).total.backward()
    counted = ~labels.isnan() & loss.exists[surfaces]
    assert logits.grad is not None
    assert bool((logits.grad[~counted] == 0).all())
    assert bool((logits.grad[counted] != 0).all())


def test_an_infinite_logit_of_an_unknown_label_does_no_harm() -> None:
    config = random_config(0)
    logits, labels, surfaces = tensors(*random_rows(config, 20, 0))
    logits[labels.isnan()] = float("inf")
    logits.requires_grad_()
    loss = CellLoss(config, CPU)
    losses = loss(uncalibrated(logits), labels, surfaces, loss.counts(labels, surfaces))
    losses.total.backward()
    assert losses.total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_large_logits_keep_the_loss_exact() -> None:
    config = random_config(0)
    loss = CellLoss(config, CPU)
    logits = torch.tensor([[1000.0, -1000.0, 0.0]])
    labels = torch.tensor([[0.0, 1.0, float("nan")]])
    surfaces = torch.tensor([0])
    losses = loss(uncalibrated(logits), labels, surfaces, loss.counts(labels, surfaces))
    assert float(losses.sums[0, 0]) == 1000.0
    assert float(losses.sums[0, 1]) == 1000.0


def test_a_batch_without_rows_or_labels_is_zero() -> None:
    config = random_config(0)
    loss = CellLoss(config, CPU)
    for rows in (0, 3):
        logits = torch.zeros(rows, 3, requires_grad=True)
        labels = torch.full((rows, 3), float("nan"))
        surfaces = torch.zeros(rows, dtype=torch.long)
        total = loss(uncalibrated(logits), labels, surfaces, loss.counts(labels, surfaces)).total
        assert float(total.detach()) == 0
        total.backward()


def test_a_fault_is_described_by_surface_task_and_row() -> None:
    config = random_config(0)
    assert config.tasks == ("click", "like", "buy")
    loss = CellLoss(config, CPU)
    logits = torch.zeros(5, 3)
    labels = torch.ones(5, 3)
    surfaces = torch.tensor([0, 1, 1, 1, 2])
    logits[3, 2] = float("nan")
    logits[1, 0] = float("inf")  # search has no click: not the fault
    losses = loss(uncalibrated(logits), labels, surfaces, loss.counts(labels, surfaces))
    assert not losses.total.isfinite()
    described = describe_fault(config, logits, labels, surfaces, losses.sums)
    assert described == "surface search, task buy, row 3 of the batch, logit nan, label 1.0"
    finite = torch.zeros_like(losses.sums)
    assert describe_fault(config, logits, labels, surfaces, finite) == (
        "the weighted sum of all cells"
    )

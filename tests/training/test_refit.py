"""Fitting calibrators to rows: to the optimum, and never beyond what the rows say."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from recsys.config.model import CalibrationConfig
from recsys.evaluation.metrics import ece, pcoc
from recsys.model.calibration import Calibrator, build_calibrator
from recsys.training.refit import refit, why_not

KINDS = ("platt", "isotonic", "global")


def rows(count: int, seed: int, rate: float = -1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are bent: too steep below, too flat above, and shifted."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(count, generator=generator) * 1.3 + rate
    labels = torch.bernoulli(true.sigmoid(), generator=generator)
    return torch.where(true < -1, 2 * true + 1, 0.5 * true - 0.5) + 0.7, labels


def calibrator_of(kind: str) -> Calibrator:
    found = build_calibrator(CalibrationConfig(kind=kind, buckets=16, limit=8.0), ("click",))
    assert found is not None
    return found


def probabilities(calibrator: Calibrator, logits: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return calibrator(logits.unsqueeze(1), ("click",))[:, 0].sigmoid().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_sum_of_probabilities_is_that_of_the_labels(kind: str, seed: int) -> None:
    logits, labels = rows(3000, seed)
    calibrator = calibrator_of(kind)
    refit(calibrator, logits, labels)
    assert pcoc(probabilities(calibrator, logits), labels.numpy()) == pytest.approx(1, abs=1e-5)
    assert all(p.dtype == torch.float32 for p in calibrator.parameters())


@pytest.mark.parametrize("seed", range(2))
def test_platt_is_scipys_optimum(seed: int) -> None:
    logits, labels = rows(800, seed)
    z, y = logits.double().numpy(), labels.double().numpy()

    def objective(x: np.ndarray) -> float:
        found = np.exp(x[0]) * z + x[1]
        return float((np.logaddexp(0, found) - y * found).sum() + (x[0] / 0.25) ** 2 / 2)

    best = minimize(objective, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9})
    calibrator = calibrator_of("platt")
    refit(calibrator, logits, labels)
    found = [float(calibrator.log_slope.detach()), float(calibrator.bias.detach())]  # type: ignore[operator, union-attr]
    assert found == pytest.approx(best.x.tolist(), abs=1e-5)


def test_isotonic_bends_where_platt_cannot() -> None:
    logits, labels = rows(40_000, 5)
    found = {}
    for kind in ("platt", "isotonic"):
        calibrator = calibrator_of(kind)
        refit(calibrator, logits, labels)
        fresh, fresh_labels = rows(40_000, 6)
        found[kind] = ece(probabilities(calibrator, fresh), fresh_labels.numpy(), bins=20)
    assert found["isotonic"] < 0.6 * found["platt"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_anywhere_and_ends_in_the_same_place(kind: str) -> None:
    logits, labels = rows(2000, 1)
    first, second = calibrator_of(kind), calibrator_of(kind)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.5)
    refit(first, logits, labels)
    refit(second, logits, labels)
    p, q = probabilities(first, logits), probabilities(second, logits)
    np.testing.assert_allclose(p, q, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_a_threshold_separates_give_finite_parameters(kind: str) -> None:
    logits = torch.linspace(-3, 3, 200)
    calibrator = calibrator_of(kind)
    refit(calibrator, logits, (logits > 0).float())
    for parameter in calibrator.parameters():
        assert bool(parameter.isfinite().all())
    assert bool(np.isfinite(probabilities(calibrator, logits)).all())


def test_a_bucket_without_rows_keeps_its_slope() -> None:
    """Those below the lowest row; between the rows and 0 slopes and bias are one thing."""
    logits, labels = rows(2000, 2)
    calibrator = calibrator_of("isotonic")
    refit(calibrator, logits.clamp(min=-1), labels)
    below = calibrator.slopes[0, :6].detach()  # type: ignore[index, union-attr]
    assert below.tolist() == pytest.approx([calibrator.identity()] * 6, abs=1e-4)  # type: ignore[operator]


def shifted(kind: str, shift: float) -> Calibrator:
    """What rows of all surfaces said: all logits are `shift` too low."""
    found = calibrator_of(kind)
    with torch.no_grad():
        found.bias.fill_(shift)  # type: ignore[operator, union-attr]
    return found


def test_platt_towards_another_is_scipys_optimum() -> None:
    logits, labels = rows(60, 3)
    z, y = logits.double().numpy(), labels.double().numpy()

    def objective(x: np.ndarray) -> float:
        found = np.exp(x[0]) * z + x[1]
        prior = (x[0] / 0.2) ** 2 / 2 + ((x[1] - 0.7) / 0.2) ** 2 / 2
        return float((np.logaddexp(0, found) - y * found).sum() + prior)

    best = minimize(objective, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9})
    calibrator = calibrator_of("platt")
    refit(calibrator, logits, labels, shifted("platt", 0.7), spread=0.2)
    found = [float(calibrator.log_slope.detach()), float(calibrator.bias.detach())]  # type: ignore[operator, union-attr]
    assert found == pytest.approx(best.x.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_few_rows_stay_near_the_others_and_many_go_their_own_way(kind: str) -> None:
    towards = shifted(kind, -0.6)
    before = {name: value.clone() for name, value in towards.state_dict().items()}
    distance = []
    for count in (20, 40_000):
        logits, labels = rows(count, 4)
        alone, near = calibrator_of(kind), calibrator_of(kind)
        refit(alone, logits, labels)
        refit(near, logits, labels, towards)
        p, q, r = (probabilities(each, logits).mean() for each in (alone, near, towards))
        distance.append(abs(q - r) / abs(p - r))
    assert distance[0] < 0.1
    assert distance[1] > 0.9
    assert all(torch.equal(before[name], value) for name, value in towards.state_dict().items())


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_the_spread_says_how_near(kind: str) -> None:
    logits, labels = rows(300, 6)
    towards, alone = shifted(kind, 2.0), calibrator_of(kind)
    refit(alone, logits, labels)
    gaps = []
    for spread in (1e-4, 0.1, 1.0):
        calibrator = calibrator_of(kind)
        refit(calibrator, logits, labels, towards, spread)
        gaps.append(float((calibrator.bias - towards.bias).abs().detach()))  # type: ignore[operator, arg-type]
    assert gaps[0] < 1e-3 < gaps[1] < gaps[2]


def test_one_task_at_a_time() -> None:
    calibrator = build_calibrator(CalibrationConfig(kind="platt"), ("click", "like"))
    assert calibrator is not None
    with pytest.raises(ValueError, match="one task at a time"):
        refit(calibrator, *rows(5, 0))


def test_what_tells_a_calibrator_nothing() -> None:
    assert why_not(torch.zeros(0)) == "no row with a known label"
    assert why_not(torch.zeros(1200)) == "all 1,200 labels are 0"
    assert why_not(torch.ones(3)) == "all 3 labels are 1"
    assert why_not(torch.tensor([0.0, 1.0])) is None
    assert why_not(torch.tensor([0.3, 0.3])) is None

"""Calibrators: what they may do to a ranking, to gradients and to probabilities."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import Config
from recsys.config.model import CalibrationConfig
from recsys.evaluation.metrics import auc
from recsys.model.calibration import LEAST_SLOPE, Calibrator, Isotonic, Platt, build_calibrator
from recsys.model.unified import Logits, UnifiedModel, build_model
from recsys.training.loss import CellLoss
from tests.model.models import draw_weights, plain_model
from tests.model.requests import collate, random_config, random_requests

SURFACES = ["home", "search", "related"]
TRAINED = ["platt", "isotonic", "global"]
TASKS = ("click", "like")


def with_kind(seed: int, kind: str, **changes: Any) -> Config:
    section = random_config(seed).model_dump(mode="json", by_alias=True)["model"]
    calibration = {"kind": kind, "buckets": 6, "limit": 3.0}
    return random_config(seed, model={**section, "calibration": calibration}, **changes)


def drawn(kind: str, seed: int, spread: float = 2.0) -> Calibrator:
    """A calibrator with parameters far from the identity."""
    config = CalibrationConfig(kind=kind, buckets=8, limit=4.0)
    calibrator = build_calibrator(config, TASKS)
    assert calibrator is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in calibrator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return calibrator


def in_plain_python(calibrator: Calibrator, t: int, z: float) -> float:
    """g of one logit, from the definition: slopes integrated from 0."""
    calibrator = copy.deepcopy(calibrator).requires_grad_(False)
    if isinstance(calibrator, Platt):
        return math.exp(float(calibrator.log_slope[t])) * z + float(calibrator.bias[t])
    assert isinstance(calibrator, Isotonic)
    knots = calibrator.knots.tolist()
    found = float(calibrator.bias[t])
    for i, raw in enumerate(calibrator.slopes[t].tolist()):
        low = -math.inf if i == 0 else knots[i]
        high = math.inf if i == len(knots) - 2 else knots[i + 1]
        slope = 1e-3 + math.log1p(math.exp(raw))
        found += slope * (min(max(z, low), high) - min(max(0.0, low), high))
    return found


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
@pytest.mark.parametrize("seed", range(3))
def test_a_calibrator_is_its_formula(kind: str, seed: int) -> None:
    calibrator = drawn(kind, seed)
    z = torch.cat([torch.linspace(-9, 9, 101), torch.tensor([-3.0, 0.0, 1.0, 4.0])])
    found = calibrator(torch.stack([z, -z], dim=1), TASKS).detach()
    for row, value in enumerate(z.tolist()):
        for t, each in enumerate((value, -value)):
            expected = in_plain_python(calibrator, t, each)
            assert float(found[row, t]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", TRAINED)
def test_a_calibrator_begins_as_the_identity(kind: str) -> None:
    calibrator = build_calibrator(CalibrationConfig(kind=kind), TASKS)
    assert calibrator is not None
    z = torch.linspace(-30, 30, 1001).unsqueeze(1).expand(-1, 2)
    torch.testing.assert_close(calibrator(z, TASKS), z.double(), rtol=0, atol=2e-6)


def test_none_has_no_calibrator() -> None:
    assert build_calibrator(CalibrationConfig(), TASKS) is None


def of_distinct(
    calibrator: Calibrator, logits: list[float], most: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and their upper neighbours in float32, increasing, and g of them; parameters of `most`
    at most."""
    z = torch.tensor(logits)
    z = torch.cat([z, torch.nextafter(z[z != 0], torch.tensor(math.inf))]).unique()  # sorted
    with torch.no_grad():
        for parameter in calibrator.parameters():
            parameter.clamp_(-most, most)
        return z, calibrator(z.unsqueeze(1).expand(-1, 2), TASKS)


LOGITS = st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=50)
SPREADS = st.sampled_from([0.1, 1.0, 5.0, 30.0])


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["platt", "isotonic"]),
    seed=st.integers(0, 10_000),
    spread=SPREADS,
    logits=LOGITS.map(lambda each: [z for z in each if z == 0 or abs(z) > 1e-3]),
)
def test_outputs_are_strictly_increasing(
    kind: str, seed: int, spread: float, logits: list[float]
) -> None:
    """Also over knots, far beyond them, and between neighbours of float32."""
    _, found = of_distinct(drawn(kind, seed, spread), logits, 4.0)
    assert bool((found.diff(dim=0) > 0).all())


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["platt", "isotonic"]),
    seed=st.integers(0, 10_000),
    spread=SPREADS,
    logits=LOGITS,
)
def test_outputs_never_decrease(kind: str, seed: int, spread: float, logits: list[float]) -> None:
    """Whatever the parameters and however close the logits: at worst two become equal."""
    _, found = of_distinct(drawn(kind, seed, spread), logits, 80.0)
    assert bool((found.diff(dim=0) >= 0).all())


@given(seed=st.integers(0, 10_000), raw=st.floats(-50, 50))
@settings(max_examples=30)
def test_no_slope_of_isotonic_is_below_the_least(seed: int, raw: float) -> None:
    calibrator = drawn("isotonic", seed)
    with torch.no_grad():
        calibrator.slopes[:, 3] = raw
        z = torch.linspace(-8, 8, 257, dtype=torch.float64)
        found = calibrator(z.unsqueeze(1).expand(-1, 2), TASKS)
    rise = found.diff(dim=0) / z.diff().unsqueeze(1)
    assert float(rise.min()) >= LEAST_SLOPE * (1 - 1e-9)


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_same_to_the_last_digit(kind: str, seed: int) -> None:
    """With ties among the logits, which must stay ties, and tiny differences, which must stay."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(4000, generator=generator) * 2
    z = torch.cat([z, z[:500], torch.nextafter(z[500:900], torch.tensor(math.inf))])
    label = torch.bernoulli(z.sigmoid(), generator=generator).numpy()
    with torch.no_grad():
        found = drawn(kind, seed, 0.7)(z.unsqueeze(1).expand(-1, 2), TASKS).sigmoid()
    raw = auc(z.double().sigmoid().numpy(), label)
    for t in range(2):
        assert auc(found[:, t].numpy(), label) == raw


@pytest.mark.parametrize("kind", TRAINED)
def test_some_tasks_in_another_order(kind: str) -> None:
    calibrator = drawn(kind, 1)
    z = torch.randn(7, 2)
    both = calibrator(z, TASKS)
    assert torch.equal(calibrator(z[:, 1:], TASKS[1:]), both[:, 1:])
    assert torch.equal(calibrator(z.flip(1), TASKS[::-1]), both.flip(1))


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("seed", range(2))
def test_a_model_calibrates_each_surface_by_its_own(kind: str, seed: int) -> None:
    config = with_kind(seed, kind)
    model = plain_model(config, seed)
    batch = collate(config, random_requests(config, 14, seed))
    logits = model(batch)
    assert logits.calibrated.dtype == logits.corrected.dtype == torch.float64
    for s, surface in enumerate(SURFACES):
        rows = slice(batch.candidate_offsets[s], batch.candidate_offsets[s + 1])
        assert rows.stop > rows.start
        calibrator = model.calibrators["every_surface" if kind == "global" else surface]
        for t, task in enumerate(config.tasks):
            raw, found = logits.raw[rows, t].tolist(), logits.calibrated[rows, t].tolist()
            corrected = logits.corrected[rows, t].tolist()
            if task not in config.surfaces[surface].tasks:
                assert set(found) == {0.0}
                continue
            at = calibrator.tasks.index(task)
            for z, g, c in zip(raw, found, corrected, strict=True):
                assert g == pytest.approx(in_plain_python(calibrator, at, z), rel=1e-9)
                shift = math.log(0.25) if (surface, task) == ("search", "buy") else 0.0
                assert c == pytest.approx(g + shift, rel=1e-12)


def test_none_leaves_the_logits() -> None:
    config = with_kind(0, "none")
    model = plain_model(config, 0)
    logits = model(collate(config, random_requests(config, 14, 0)))
    assert torch.equal(logits.calibrated, logits.raw.detach().double())


def gradients(model: UnifiedModel, config: Config, seed: int) -> dict[str, torch.Tensor | None]:
    batch = collate(config, random_requests(config, 15, seed))
    loss = CellLoss(config, torch.device("cpu"))
    counts = loss.counts(batch.labels, batch.surface_index)
    loss(model(batch), batch.labels, batch.surface_index, counts).objective.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("seed", range(3))
def test_the_rest_of_the_model_has_the_same_gradient_bit_for_bit(kind: str, seed: int) -> None:
    plain, calibrated = with_kind(seed, "none"), with_kind(seed, kind)
    model = plain_model(calibrated, seed).train()
    reference = build_model(plain).train()
    reference.load_state_dict(model.state_dict(), strict=False)
    expected = gradients(reference, plain, seed)
    found = gradients(model, calibrated, seed)
    own = {name for name in found if name.startswith("calibrators.")}
    assert found.keys() - expected.keys() == own
    assert own
    for name in own:
        gradient = found[name]
        assert gradient is not None and bool((gradient != 0).any()), name
    for name, value in expected.items():
        other = found[name]
        assert (other is None) == (value is None), name
        assert value is None or torch.equal(value, other), name  # type: ignore[arg-type]


@pytest.mark.parametrize("surface", SURFACES)
def test_a_calibrator_learns_from_its_own_surface_only(surface: str) -> None:
    config = with_kind(1, "platt")
    model = plain_model(config, 1).train()
    batch = collate(config, random_requests(config, 12, 1, [surface]))
    loss = CellLoss(config, torch.device("cpu"))
    counts = loss.counts(batch.labels, batch.surface_index)
    loss(model(batch), batch.labels, batch.surface_index, counts).objective.backward()
    for name, calibrator in model.calibrators.items():
        for parameter in calibrator.parameters():
            assert (parameter.grad is not None) == (name == surface)


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("seed", range(2))
def test_the_calibrators_loss_is_its_formula(kind: str, seed: int) -> None:
    """No weights; a mean over the cell, or with `global` over the task."""
    config = with_kind(seed, kind, training={"loss": "task"})
    model = plain_model(config, seed)
    batch = collate(config, random_requests(config, 15, seed))
    loss = CellLoss(config, torch.device("cpu"))
    logits = model(batch)
    counts = loss.counts(batch.labels, batch.surface_index)
    found = loss(logits, batch.labels, batch.surface_index, counts)
    cells: dict[tuple[int, int], list[float]] = {}
    for row, s in enumerate(batch.surface_index.tolist()):
        for t in model.layout.task_indices(SURFACES[s]):
            y = float(batch.labels[row, t])
            if not math.isnan(y):
                p = 1 / (1 + math.exp(-float(logits.calibrated[row, t])))
                key = (0, t) if kind == "global" else (s, t)
                cells.setdefault(key, []).append(-math.log(p if y else 1 - p))
    expected = sum(sum(each) / len(each) for each in cells.values())
    assert found.calibration is not None
    assert float(found.calibration) == pytest.approx(expected, rel=1e-4)
    assert float(found.objective) == pytest.approx(float(found.total) + expected, rel=1e-4)


def test_correction_for_down_sampled_negatives_by_hand() -> None:
    """10 % of the negatives kept: a log with as many positives as negatives is one of 1 in 11."""
    for sampled, rate, expected in [(0.5, 0.1, 1 / 11), (0.2, 0.25, 1 / 17), (0.9, 0.5, 9 / 11)]:
        surfaces = random_config(0).model_dump(mode="json", by_alias=True)["surfaces"]
        surfaces["search"]["negative_sampling"] = {"buy": rate}
        model = build_model(random_config(0, surfaces=surfaces))
        z = torch.tensor([[math.log(sampled / (1 - sampled))] * 3], dtype=torch.float64)
        found = model.correct(z, SURFACES.index("search")).sigmoid()[0].tolist()
        t = model.layout.tasks.index("buy")
        assert found[t] == pytest.approx(expected, rel=1e-12)
        assert found[t] == pytest.approx(sampled / (sampled + (1 - sampled) / rate), rel=1e-12)
        others = [p for i, p in enumerate(found) if i != t]
        assert others == pytest.approx([sampled] * 2, rel=1e-12)
        assert torch.equal(model.correct(z, SURFACES.index("home")), z)


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("surface", SURFACES)
def test_a_view_has_the_calibrator_of_its_surface_and_shares_it(kind: str, surface: str) -> None:
    model = plain_model(with_kind(1, kind), 1)
    view = model.for_surface(surface)
    assert list(view.calibrators) == ["every_surface" if kind == "global" else surface]
    for name, value in view.calibrators.state_dict().items():
        assert value.data_ptr() == model.calibrators.state_dict()[name].data_ptr()


def test_calibrators_differ_by_surface_under_a_shared_tower() -> None:
    document = random_config(1).model_dump(mode="json", by_alias=True)
    document["surfaces"]["search"]["tower"]["modules"] = []
    for level in ("request", "candidate"):
        for feature in document["features"][level].values():
            feature["surfaces"] = None
    document["model"] |= {"towers": "shared", "calibration": {"kind": "platt"}}
    chosen = {key: document[key] for key in ("model", "surfaces", "features")}
    config = random_config(1, **chosen)
    model = plain_model(config, 1)
    assert list(model.towers) == ["shared"]
    assert list(model.calibrators) == SURFACES
    for surface in SURFACES:
        batch = collate(config, random_requests(config, 5, 1, [surface]))
        seen, joint = model.for_surface(surface)(batch), model(batch)
        assert torch.equal(seen.raw, joint.raw)
        assert torch.equal(seen.calibrated, joint.calibrated)
        assert torch.equal(seen.corrected, joint.corrected)


def test_calibration_learns_what_is_off() -> None:
    """Logits twice too large and shifted: gradient descent on the calibrator alone finds that."""
    generator = torch.Generator().manual_seed(3)
    true = torch.randn(20_000, 1, generator=generator) - 1
    label = torch.bernoulli(true.sigmoid(), generator=generator)
    raw = 2 * true + 0.8
    for kind in ("platt", "isotonic"):
        calibrator = build_calibrator(CalibrationConfig(kind=kind), ("click",))
        assert calibrator is not None
        optimizer = torch.optim.Adam(calibrator.parameters(), lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            z = calibrator(raw, ("click",))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(z, label.double())
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found = calibrator(raw, ("click",)).sigmoid()
        assert float(found.sum() / label.sum()) == pytest.approx(1, abs=0.02)
        assert float((found - true.sigmoid()).abs().mean()) < 0.02


def test_weights_are_drawn_for_calibrators_too() -> None:
    """The helper of all model tests: without this, every test would see identities."""
    model = build_model(with_kind(1, "isotonic"))
    draw_weights(model, 1)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    found = model.calibrate(z.expand(-1, 3), "related")
    assert not np.allclose(found[:, 0].detach().numpy(), z[:, 0].numpy())
    assert isinstance(model(collate(model.layout.config, [])), Logits)

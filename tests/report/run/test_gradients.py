"""Gradients of the trunk by cell, and what is read from them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsys.evaluation.score import load_model
from recsys.report.run.gradients import cell_gradients, cell_weights, conflict, cosines
from recsys.report.run.sample import sample


def test_a_cells_gradient_is_that_of_its_mean_loss(trained):
    config = trained.config
    model, rows = load_model(trained, config), sample(trained, config)
    found = cell_gradients(model, rows)
    assert set(found) == {(s, t) for s, e in config.active_surfaces.items() for t in e.tasks}
    [surface, task] = next(cell for cell in found if cell[0] == "search")
    batches = rows.parts[surface][::2]
    losses, count = 0.0, 0
    t = rows.layout.tasks.index(task)
    for batch in batches:
        logits = model(batch).raw
        known = ~batch.labels[:, t].isnan()
        losses = losses + F.binary_cross_entropy_with_logits(
            logits[known, t], batch.labels[known, t], reduction="sum"
        )
        count += int(known.sum())
    weights = [w for w in model.trunk.parameters() if w.requires_grad]
    expected = torch.autograd.grad(losses / count, weights, allow_unused=True)
    flat = torch.cat(
        [
            (torch.zeros_like(w) if g is None else g).flatten()
            for w, g in zip(weights, expected, strict=True)
        ]
    )
    assert torch.allclose(found[surface, task][0], flat, atol=1e-6)
    assert float(flat.norm()) > 0


def test_conflict_of_known_gradients():
    a, b = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    gradients = {
        ("home", "click"): torch.stack([a, a]),
        ("home", "like"): torch.stack([b, -b]),  # two halves that disagree: all noise
        ("search", "click"): torch.stack([-2 * a, -2 * a]),
    }
    found = conflict(gradients, dict.fromkeys(gradients, 1.0) | {("home", "like"): 0.5})
    assert found["surfaces"]["names"] == ["home", "search"]
    assert found["surfaces"]["cosine"][0][1] == pytest.approx(-1)
    assert found["tasks"]["cosine"][1][1] == pytest.approx(-1)
    shares = {(n["surface"], n["task"]): n["share"] for n in found["norms"]}
    assert shares == {
        ("home", "click"): pytest.approx(1 / 3),
        ("home", "like"): 0,
        ("search", "click"): pytest.approx(2 / 3),
    }


def test_a_gradient_of_length_0_has_no_cosine():
    one, none = torch.ones(2, 3), torch.zeros(2, 3)
    assert cosines([one, none]) == [[pytest.approx(1), None], [None, None]]


def test_weights_of_cells(trained):
    config = trained.config
    labels = {(s, t): 10 for s, e in config.active_surfaces.items() for t in e.tasks}
    by_cell = config.model_copy(
        update={"training": config.training.model_copy(update={"loss": "cell"})}
    )
    assert set(cell_weights(by_cell, labels).values()) == {1.0}
    by_task = config.model_copy(
        update={"training": config.training.model_copy(update={"loss": "task"})}
    )
    found = cell_weights(by_task, labels | {("home", "click"): 30})
    clicks = {s: w for (s, t), w in found.items() if t == "click"}
    assert sum(clicks.values()) == pytest.approx(1)
    assert clicks["home"] == pytest.approx(3 * clicks["search"])


def test_sampling_and_learned_weights_are_in_the_weights_of_cells(trained):
    config = trained.config
    labels = {(s, t): 10 for s, e in config.active_surfaces.items() for t in e.tasks}
    home = config.surfaces["home"].model_copy(update={"request_sampling": 0.5})
    changed = config.model_copy(
        update={
            "surfaces": {**config.surfaces, "home": home},
            "training": config.training.model_copy(update={"loss": "task"}),
        }
    )
    clicks = {s: w for (s, t), w in cell_weights(changed, labels).items() if t == "click"}
    assert clicks["search"] == pytest.approx(2 * clicks["home"])
    variances = torch.zeros(len(config.active_surfaces), len(config.tasks))
    variances[0, 0] = 1.0
    learned = cell_weights(changed, labels, variances)
    first = (next(iter(config.active_surfaces)), config.tasks[0])
    for cell, weight in cell_weights(changed, labels).items():
        factor = np.exp(-1.0) if cell == first else 1.0
        assert learned[cell] == pytest.approx(weight * factor)

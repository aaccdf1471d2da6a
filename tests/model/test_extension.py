"""The extension point: late-fusion modules, built in or a user's own, on the way through the house.

Checkpoint, evaluation and two ranks with a user's module are in tests/training.
"""

import copy
from typing import Any

import pytest
import torch

from recsys.config import Config
from recsys.errors import UserError
from recsys.model.unified import build_model
from recsys.training.ranks import start_ranks
from tests.model.models import plain_model, surface_logits
from tests.model.requests import collate, random_config, random_requests
from tests.training.steps import stepper_of, take_step, training_config, weights

OWN = "tests.model.own_modules"
MODULES: dict[str, dict[str, Any]] = {
    "mlp": {"class": "mlp", "inputs": ["user_id", "price", "trunk"], "hidden": [4, 3]},
    "low_rank_cross": {"class": "low_rank_cross", "inputs": ["item", "age"], "layers": 2},
    "history_attention": {"class": "history_attention", "inputs": ["history", "item"], "heads": 1},
    "own": {"class": f"{OWN}.QueryCross", "inputs": ["item", "item_again"], "scale": 0.5},
    "own table": {"class": f"{OWN}.WithTable", "inputs": ["age"], "rows": 5},
}


def with_module(seed: int, module: dict[str, Any] | None, surface: str = "home") -> Config:
    """The random configuration with a module in a surface's tower."""
    document = random_config(seed).model_dump(mode="json", by_alias=True)
    surfaces, features = copy.deepcopy(document["surfaces"]), document["features"]
    # A second feature on the items' table, for products of equal width.
    features["request"]["item_again"] = {"id": "item"}
    if module is not None:
        surfaces[surface]["tower"]["modules"].append(module)
    return random_config(seed, surfaces=surfaces, features=features)


@pytest.mark.parametrize("name", MODULES)
def test_adding_a_module_changes_no_prediction_at_first(name: str) -> None:
    """The same seed gives the same weights to everything else, and the module's output is zero."""
    before, after = with_module(1, None), with_module(1, MODULES[name])
    torch.manual_seed(3)
    old = build_model(before).eval()
    torch.manual_seed(3)
    new = build_model(after).eval()
    added = new.state_dict().keys() - old.state_dict().keys()
    assert added
    assert all(key.startswith("towers.home.tower.fusions.0.") for key in added)
    batch = collate(after, random_requests(after, 12, 1))
    with torch.no_grad():
        torch.testing.assert_close(new(batch), old(batch), rtol=0, atol=1e-6)
    # Also with other weights than the first ones, as in fine-tuning. The statistics of numbers that
    # only the module reads are new, so they do not fit.
    trained = {k: v for k, v in plain_model(before, 1).state_dict().items() if "numbers" not in k}
    for model in (old, new):
        model.load_state_dict(trained, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(new(batch), old(batch), rtol=0, atol=1e-6)


def test_two_modules_of_one_kind_start_with_different_weights() -> None:
    document = with_module(1, MODULES["own table"]).model_dump(mode="json", by_alias=True)
    document["surfaces"]["home"]["tower"]["modules"] *= 2
    config = random_config(1, surfaces=document["surfaces"], features=document["features"])
    first, second = build_model(config).towers["home"].tower.fusions
    assert not torch.equal(first.module.table.weight, second.module.table.weight)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_learns_and_is_in_the_view_of_its_surface_only(name: str) -> None:
    config = with_module(2, MODULES[name])
    model = build_model(config)
    fusion = model.towers["home"].tower.fusions[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batch = collate(config, random_requests(config, 12, 2, ["home", "related"]))
    for step in range(2):
        optimizer.zero_grad()
        model(batch).raw.square().sum().backward()
        # Zero at its output, a module itself gets a gradient once its projection has moved.
        assert bool((fusion.project.weight.grad != 0).any())
        inner = [p.grad for p in fusion.module.parameters()]
        assert any(g is not None and bool((g != 0).any()) for g in inner) == (step > 0)
        optimizer.step()
    model = plain_model(config, 2)
    view = model.for_surface("home")
    assert any(".fusions.0.module." in key for key in view.state_dict())
    assert not any(".fusions." in key for key in model.for_surface("related").state_dict())
    with torch.no_grad():
        rows = slice(batch.candidate_offsets[0], batch.candidate_offsets[1])
        joint = model(batch).raw[rows]
        alone = surface_logits(model, batch, "home").raw
        torch.testing.assert_close(alone, joint, rtol=0, atol=1e-6)
        # It is read at all: without it, the logits are others.
        model.towers["home"].tower.fusions[0].project.weight.zero_()
        assert not torch.allclose(model(batch).raw[rows], joint)


def test_a_module_reads_what_the_configuration_names() -> None:
    """Every kind of input arrives on the surface's candidates, in the declared width."""
    config = with_module(3, None)
    model = plain_model(config, 3)
    seen: list[dict[str, Any]] = []
    tower = model.towers["search"]
    fusion = tower.tower.fusions[0]
    fusion.module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    requests = random_requests(config, 6, 3, ["home", "search"])
    batch = collate(config, requests)
    with torch.no_grad():
        model(batch)
        tables = model.lookup.tables
    shown = [
        (request, candidate)
        for request in requests
        if request["surface"] == "search"
        for candidate in request["candidates"]
    ]
    inputs = seen[0]
    assert list(inputs) == ["query", "match", "query_length", "item"]
    for row, (request, candidate) in enumerate(shown):
        query = tables["query"].weight[request["query"]]
        assert torch.equal(inputs["query"][row], query)
        assert torch.equal(inputs["item"][row], tables["item"].weight[candidate["item"]])
        match = candidate["match"]
        expected = [0.0, 1.0] if match is None else [match, 0.0]
        torch.testing.assert_close(inputs["match"][row], torch.tensor(expected))
        length = request["query_length"]
        assert inputs["query_length"][row, 1] == float(length is None)


def test_a_user_module_is_sharded_and_trained() -> None:
    config = with_module(1, MODULES["own"])
    with_training = training_config(1, dense={"lr": 0.05, "warmup_steps": 0})
    config = config.model_copy(update={"training": with_training.training})
    with start_ranks(60) as ranks:
        stepper = stepper_of(config, ranks)
        before = weights(stepper)
        take_step(stepper, collate(config, random_requests(config, 12, 1, ["home"])), 0)
        after = weights(stepper)
    name = "towers.home.tower.fusions.0.module.weight"
    assert (before[name] != after[name]).any()


FAULTS = [
    ("crossing", {}, "class crossing is not built in (mlp, low_rank_cross, history_attention)"),
    ("no_such_package.Thing", {}, "class no_such_package.Thing cannot be imported"),
    (f"{OWN}.NoSuch", {}, f"class {OWN}.NoSuch cannot be imported"),
    (f"{OWN}.QueryCross", {"size": 3}, "does not take these keys"),
    (f"{OWN}.NoWidth", {}, "is not an nn.Module with an int attribute out_features"),
    (f"{OWN}.NotAModule", {}, "is not an nn.Module with an int attribute out_features"),
    (f"{OWN}.NOT_A_CLASS", {}, "NOT_A_CLASS"),
    ("mlp", {"hiden": [3]}, "'hiden'"),
    ("history_attention", {}, "inputs must be `history` and at least one feature"),
]


@pytest.mark.parametrize(("path", "arguments", "message"), FAULTS)
def test_faults_of_a_module_name_the_key(
    path: str, arguments: dict[str, Any], message: str
) -> None:
    module = {"class": path, "inputs": ["item", "item_again"], **arguments}
    with pytest.raises(UserError) as caught:
        build_model(with_module(1, module, "search"))
    # It is the fourth module of that surface.
    assert str(caught.value).startswith("surfaces.search.tower.modules[3]: ")
    assert message in str(caught.value)

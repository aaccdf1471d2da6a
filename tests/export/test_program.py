"""Exported programs against the joint model, over random configurations and shapes."""

from typing import Any

import pytest
import torch

from recsys.config import Config
from recsys.config.export import Recipe
from recsys.data.layout import Layout
from recsys.data.statistics import Statistics
from recsys.export.program import LOGIT, ServingModel, export_program, load_program, save_program
from recsys.export.view import view_config, view_model
from recsys.model.unified import UnifiedModel
from tests.model.models import plain_model
from tests.model.requests import Request, collate, random_config, random_requests

# Attention is written out in a graph, so that sums are in another order.
CLOSE = {"rtol": 0, "atol": 1e-6}


class Exported:
    """A program of one surface beside the joint model that it comes from."""

    def __init__(self, folder: Any, config: Config, surface: str, recipe: Recipe | None = None):
        self.joint_config, self.surface = config, surface
        self.joint = plain_model(config)
        self.config = view_config(config, surface, recipe or Recipe(), Statistics())
        self.view = view_model(self.joint, self.config, surface)
        self.serving = ServingModel(self.view, dict.fromkeys(self.config.tables, "fp32"))
        self.signature = self.serving.signature
        save_program(export_program(self.serving, self.inputs(self.requests(6, 100))), folder / "x")
        self.program = load_program(folder / "x")

    def requests(self, count: int, seed: int, candidates: int = 5) -> list[Request]:
        return random_requests(self.joint_config, count, seed, [self.surface], candidates)

    def inputs(self, requests: list[Request]) -> dict[str, torch.Tensor]:
        return self.signature.tensors(collate(self.config, requests))

    def assert_same(self, requests: list[Request]) -> None:
        """As the joint model's view, which is given the joint batch."""
        batch = collate(self.joint_config, requests)
        with torch.no_grad():
            view: UnifiedModel = self.joint.for_surface(self.surface)
            wanted = view(batch)
            found = self.program(**self.inputs(requests))
        joint = Layout(self.joint_config)
        for task in self.config.tasks:
            t = joint.tasks.index(task)
            torch.testing.assert_close(found[LOGIT + task], wanted.raw[:, t], **CLOSE)
            assert found[task].dtype == torch.float64
            torch.testing.assert_close(found[task], wanted.probabilities()[:, t], **CLOSE)


@pytest.fixture(scope="module", params=[(0, "search"), (1, "home"), (2, "related"), (3, "search")])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    seed, surface = request.param
    return Exported(tmp_path_factory.mktemp("program"), random_config(seed), surface)


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize("candidates", [1, 6])
def test_equal_to_the_joint_models_view(exported: Exported, count: int, candidates: int):
    exported.assert_same(exported.requests(count, seed=count, candidates=candidates))


def test_empty_histories_and_empty_bags(exported: Exported):
    requests = exported.requests(3, seed=5)
    for request in requests:
        request |= {"history": [], "topics": [], "liked_tags": []}
        for candidate in request["candidates"]:
            candidate |= {"tags": [], "more_tags": []}
    exported.assert_same(requests)
    exported.assert_same(requests[:1])


def test_a_request_without_candidates_among_others(exported: Exported):
    requests = exported.requests(3, seed=6)
    requests[1]["candidates"] = []
    exported.assert_same(requests)


def test_requests_of_very_different_sizes(exported: Exported):
    # The model copies keys here, the program pads: equal all the same.
    many, *few = exported.requests(12, seed=8, candidates=1)
    many["candidates"] = many["candidates"] * 40
    exported.assert_same([many, *few])


def test_nothing_of_other_surfaces_is_read(exported: Exported):
    features = exported.config.features
    names = {name for _, name, _ in features}
    assert ("query" in names) == (exported.surface == "search")
    assert set(exported.serving.tables) == set(exported.config.tables)
    assert ("query" in exported.config.tables) == (exported.surface == "search")
    assert list(exported.serving.model.towers) == [exported.surface]


def test_the_order_of_inputs_does_not_matter(exported: Exported):
    inputs = exported.inputs(exported.requests(2, seed=9))
    turned = dict(reversed(inputs.items()))
    for task in exported.config.tasks:
        assert torch.equal(exported.program(**inputs)[task], exported.program(**turned)[task])


def test_the_program_itself_names_a_missing_input(exported: Exported):
    inputs = exported.inputs(exported.requests(2, seed=9))
    del inputs["request_user_id"]
    with pytest.raises(ValueError, match="request_user_id"):
        exported.program(**inputs)


def test_the_program_itself_names_an_input_of_the_wrong_width(exported: Exported):
    inputs = exported.inputs(exported.requests(2, seed=9))
    inputs["candidate_numbers"] = inputs["candidate_numbers"].repeat(1, 2)
    with pytest.raises(RuntimeError, match="candidate_numbers"):
        exported.program(**inputs)


def test_a_subset_of_heads(tmp_path_factory: pytest.TempPathFactory):
    recipe = Recipe(tasks=("buy",))
    exported = Exported(tmp_path_factory.mktemp("heads"), random_config(4), "search", recipe)
    assert exported.config.tasks == ("buy",)
    exported.assert_same(exported.requests(5, seed=1))


def test_a_shared_tower_becomes_the_surfaces_own(tmp_path_factory: pytest.TempPathFactory):
    document = random_config(5).model_dump(mode="json", by_alias=True)
    document["model"]["towers"] = "shared"
    for surface in document["surfaces"].values():
        surface["tower"] = {"stem": [8], "branches": {}}
    for level in ("request", "candidate"):
        features = document["features"][level]
        document["features"][level] = {
            name: feature for name, feature in features.items() if feature["surfaces"] is None
        }
    del document["tables"]["query"]
    config = Config.model_validate(document)
    exported = Exported(tmp_path_factory.mktemp("shared"), config, "home")
    assert list(exported.config.tasks) == ["click", "like"]
    exported.assert_same(exported.requests(5, seed=1))


def test_without_a_history(tmp_path_factory: pytest.TempPathFactory):
    document = random_config(6).model_dump(mode="json", by_alias=True)
    document["model"]["sequence"] = None
    document["surfaces"]["search"]["tower"]["modules"].pop(1)  # it reads the history
    config = Config.model_validate(document)
    exported = Exported(tmp_path_factory.mktemp("plain"), config, "search")
    assert not [name for name in exported.signature.names if name.startswith("history")]
    exported.assert_same(exported.requests(5, seed=1))

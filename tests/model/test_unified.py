"""What must hold of the whole model, on random configurations and batches."""

import copy
import json
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recsys.config import Config
from recsys.data.assemble import empty_batch
from recsys.data.layout import Layout
from recsys.model.unified import Logits, UnifiedModel, build_model
from recsys.training.loss import CellLoss
from recsys.training.ranks import Ranks, start_ranks
from recsys.training.warm_start.labels import meaning
from tests.model.models import (
    logits_of_candidates,
    plain_model,
    sharded_model,
    shuffled,
    surface_logits,
)
from tests.model.requests import by_surface, collate, flatten, random_config, random_requests

SEEDS = [0, 1, 2, 3]
SURFACES = ["home", "search", "related"]


def assert_equal(found: Logits, expected: Logits) -> None:
    """Bit for bit."""
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(one, other)


def own_tasks(config: Config, model: UnifiedModel, surface: str) -> list[int]:
    return list(model.layout.task_indices(surface))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_request_batch_equals_its_flat_rows(seed: int) -> None:
    config = random_config(seed)
    requests = by_surface(config, random_requests(config, 12, seed))
    model = plain_model(config, seed)
    with torch.no_grad():
        grouped = model(collate(config, requests))
        flat = model(collate(config, flatten(requests)))
    assert grouped.raw.abs().max() > 0.1  # the weights do something
    torch.testing.assert_close(grouped, flat, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_sharded_equals_plain_and_flat(seed: int) -> None:
    config = random_config(seed)
    requests = by_surface(config, random_requests(config, 12, seed))
    plain = plain_model(config, seed)
    batch, flat = collate(config, requests), collate(config, flatten(requests))
    with start_ranks(60) as ranks:
        sharded = sharded_model(config, ranks, plain).eval()
        with torch.no_grad():
            expected = plain(batch)
            torch.testing.assert_close(sharded(batch), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(sharded(flat), expected, rtol=0, atol=1e-5)
        # With gradients, zero times the late features is added: that must not change a logit.
        found = sharded(batch)
        torch.testing.assert_close(
            [each.detach() for each in found[:3]], [*expected[:3]], rtol=0, atol=1e-5
        )


def test_requests_of_very_different_sizes_equal_their_flat_rows() -> None:
    """So different that candidates gather their keys and are not padded."""
    config = random_config(5)
    requests = random_requests(config, 30, 5, candidates=1)
    requests[3] = random_requests(config, 1, 6, candidates=1)[0]
    shown = random_requests(config, 200, 7, [requests[3]["surface"]], candidates=1)
    requests[3]["candidates"] = [each["candidates"][0] for each in shown]
    requests = by_surface(config, requests)
    batch = collate(config, requests)
    assert batch.requests * batch.most_candidates > 8 * batch.candidates
    model = plain_model(config, 5)
    with torch.no_grad():
        flat = model(collate(config, flatten(requests)))
        torch.testing.assert_close(model(batch), flat, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_requests_and_candidates_does_not_matter(seed: int) -> None:
    config = random_config(seed)
    model = plain_model(config, seed)
    requests = random_requests(config, 10, seed)
    before = logits_of_candidates(model, config, requests)
    after = logits_of_candidates(model, config, shuffled(requests, seed))
    assert before.keys() == after.keys()
    for candidate, logits in before.items():
        torch.testing.assert_close(after[candidate], logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_other_candidates_do_not_change_a_logit(seed: int) -> None:
    config = random_config(seed)
    model = plain_model(config, seed)
    requests = random_requests(config, 10, seed)
    everything = logits_of_candidates(model, config, requests)
    draw = random.Random(seed)
    fewer = [
        {**r, "candidates": draw.sample(r["candidates"], draw.randint(1, len(r["candidates"])))}
        for r in draw.sample(requests, 6)
    ]
    some = logits_of_candidates(model, config, fewer)
    assert 6 <= len(some) < len(everything)
    for candidate, logits in some.items():
        torch.testing.assert_close(logits, everything[candidate], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("surface", SURFACES)
def test_the_view_of_a_surface_is_the_joint_model(seed: int, surface: str) -> None:
    config = random_config(seed)
    model = plain_model(config, seed)
    with torch.no_grad():
        alone = collate(config, random_requests(config, 8, seed, [surface]))
        # Nothing else is computed on a batch of the surface alone, so not a bit may differ.
        assert_equal(surface_logits(model, alone, surface), model(alone))
        assert_equal(model.for_surface(surface)(alone), model(alone))
        mixed = collate(config, random_requests(config, 15, seed + 100))
        s = SURFACES.index(surface)
        rows = slice(mixed.candidate_offsets[s], mixed.candidate_offsets[s + 1])
        assert rows.stop > rows.start
        torch.testing.assert_close(
            [*surface_logits(model, mixed, surface)[:3]],
            [each[rows] for each in model(mixed)[:3]],
            rtol=0,
            atol=1e-6,
        )


def test_a_view_holds_only_what_its_surface_reads_and_shares_it() -> None:
    config = random_config(1)
    model = plain_model(config, 1)
    tables = {
        surface: set(model.for_surface(surface).lookup.tables)  # type: ignore[operator]
        for surface in SURFACES
    }
    assert tables["search"] == set(config.tables)
    assert tables["home"] == tables["related"] == set(config.tables) - {"query"}
    joint = model.state_dict()
    for surface in SURFACES:
        view = model.for_surface(surface)
        assert set(view.towers) == {surface}
        state = view.state_dict()
        assert set(state) < set(joint)
        for name, value in state.items():
            assert value.data_ptr() == joint[name].data_ptr(), name
        others = [s for s in SURFACES if s != surface]
        assert not any(name.startswith(f"towers.{other}.") for name in state for other in others)


def test_a_view_has_no_log_variances() -> None:
    """They are for the loss alone: no export has them."""
    config = random_config(1, training={"balance": {"kind": "uncertainty"}})
    model = plain_model(config, 1)
    assert model.log_variances is not None
    assert model.log_variances.shape == (3, len(config.tasks))
    view = model.for_surface("home")
    assert "log_variances" not in view.state_dict()
    batch = collate(config, random_requests(config, 6, 1))
    assert surface_logits(model, batch, "home").log_variances is None
    assert model(batch).log_variances is not None


def test_rows_of_other_surfaces_have_no_part_in_the_part_of_a_surface() -> None:
    """`Batch.of_surface` equals the batch collated of that surface's requests alone."""
    config = random_config(2)
    requests = by_surface(config, random_requests(config, 14, 2))
    batch = collate(config, requests)
    for s, surface in enumerate(SURFACES):
        part = batch.of_surface(s)
        alone = collate(config, [r for r in requests if r["surface"] == surface])
        assert part.request_offsets == alone.request_offsets
        assert part.candidate_offsets == alone.candidate_offsets
        assert part.longest_history == alone.longest_history
        assert part.most_candidates == alone.most_candidates
        for name, jagged in alone.sparse.items():
            assert jagged.keys() == part.sparse[name].keys()
            assert torch.equal(jagged.values(), part.sparse[name].values())
            assert torch.equal(jagged.lengths(), part.sparse[name].lengths())
        assert part.bag_lengths.keys() == alone.bag_lengths.keys()
        for key, lengths in alone.bag_lengths.items():
            assert torch.equal(lengths, part.bag_lengths[key])
        for name, value in vars(alone).items():
            if isinstance(value, Tensor):
                assert torch.equal(value.nan_to_num(9), getattr(part, name).nan_to_num(9)), name


def test_tasks_that_a_surface_does_not_have_are_zero() -> None:
    config = random_config(0)
    model = plain_model(config)
    batch = collate(config, random_requests(config, 12, 0))
    logits = model(batch)
    for s, surface in enumerate(SURFACES):
        rows = logits.raw[batch.candidate_offsets[s] : batch.candidate_offsets[s + 1]]
        for t, task in enumerate(config.tasks):
            assert bool((rows[:, t] == 0).all()) == (task not in config.surfaces[surface].tasks)


def test_an_empty_history_a_single_candidate_and_an_empty_batch() -> None:
    config = random_config(3)
    model = plain_model(config, 3)
    requests = random_requests(config, 6, 3)
    without = [{**request, "history": []} for request in requests]
    one = [{**without[0], "candidates": without[0]["candidates"][:1]}]
    with torch.no_grad():
        assert model(collate(config, without)).raw.isfinite().all()
        alone = model(collate(config, one)).raw
        assert alone.shape == (1, len(config.tasks))
        both = logits_of_candidates(model, config, without)
        torch.testing.assert_close(alone[0], both[id(one[0]["candidates"][0])], rtol=0, atol=1e-6)
        for each in model(empty_batch(Layout(config)))[:3]:
            assert each.shape == (0, len(config.tasks))
        # A request that was shown nothing.
        nothing = [{**without[0], "candidates": []}, *without[1:]]
        rest = logits_of_candidates(model, config, nothing)
        for candidate, logits in rest.items():
            torch.testing.assert_close(logits, both[candidate], rtol=0, atol=1e-6)
        assert model(collate(config, nothing[:1])).raw.shape == (0, len(config.tasks))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("surface", SURFACES)
def test_no_gradient_reaches_the_towers_of_other_surfaces(seed: int, surface: str) -> None:
    config = random_config(seed)
    model = plain_model(config, seed).train()
    batch = collate(config, random_requests(config, 15, seed))
    loss = CellLoss(config, torch.device("cpu"))
    s = SURFACES.index(surface)
    loss.weights[[i for i in range(len(SURFACES)) if i != s]] = 0  # the loss of one surface
    counts = loss.counts(batch.labels, batch.surface_index)
    loss(model(batch), batch.labels, batch.surface_index, counts).total.backward()
    reached = set()
    for name, parameter in model.named_parameters():
        if name.startswith("towers."):
            gradient = parameter.grad
            if gradient is not None and bool((gradient != 0).any()):
                reached.add(name.split(".")[1])
    assert reached == {surface}
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in _weights(model.trunk))


def _weights(trunk: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The trunk's matrices, without those that need rows the batch may lack."""
    return [
        p for name, p in trunk.named_parameters() if p.dim() > 1 and "position" not in name
        and "surface" not in name
    ]  # fmt: skip


@pytest.mark.parametrize("missing", SURFACES)
def test_a_batch_without_a_surface_trains(missing: str) -> None:
    config = random_config(4)
    model = plain_model(config, 4).train()
    present = [surface for surface in SURFACES if surface != missing]
    batch = collate(config, random_requests(config, 10, 4, present))
    model(batch).raw.square().sum().backward()
    for surface in SURFACES:
        gradients = [p.grad for p in model.towers[surface].parameters()]
        if surface == missing:
            assert all(gradient is None for gradient in gradients)
        else:
            assert any(g is not None and bool((g != 0).any()) for g in gradients)


@pytest.mark.parametrize("change", ["history", "experts", "crossing", "shared"])
def test_blocks_can_be_left_out(change: str) -> None:
    """The controls of an experiment: each still groups, permutes and has views."""
    base = random_config(1).model_dump(mode="json", by_alias=True)
    model_section, surfaces = base["model"], copy.deepcopy(base["surfaces"])
    if change == "history":
        model_section = {**model_section, "sequence": None}
        del surfaces["search"]["tower"]["modules"][1]
    elif change == "experts":
        model_section = {**model_section, "experts": {"count": 1, "hidden": [4]}}
    elif change == "crossing":
        model_section = {**model_section, "crossing": None}
    else:
        model_section = {**model_section, "towers": "shared"}
        surfaces["search"]["tower"]["modules"] = []
        for level in ("request", "candidate"):
            for feature in base["features"][level].values():
                feature["surfaces"] = None
    changes = {"model": model_section, "surfaces": surfaces, "features": base["features"]}
    config = random_config(1, **changes)
    model = plain_model(config, 1)
    requests = by_surface(config, random_requests(config, 10, 1))
    batch = collate(config, requests)
    with torch.no_grad():
        logits = model(batch)
        flat = model(collate(config, flatten(requests)))
        torch.testing.assert_close(logits, flat, rtol=0, atol=1e-5)
        for s, surface in enumerate(SURFACES):
            rows = slice(batch.candidate_offsets[s], batch.candidate_offsets[s + 1])
            view = surface_logits(model, batch, surface)
            own = own_tasks(config, model, surface)
            for seen, joint in zip(view[:3], logits[:3], strict=True):
                torch.testing.assert_close(seen[:, own], joint[rows][:, own], rtol=0, atol=1e-6)


class SequencesAsIndex(TorchFunctionMode):
    """Finds `tensor[[2, 0]]`: such an index is copied to the device, and the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.found += [part for part in parts if isinstance(part, list | tuple)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_between_lookup_and_loss_waits_for_the_device(seed: int) -> None:
    """Tensors on the meta device have no values: who asks for one, and would wait for it, fails."""
    config, meta = random_config(seed), torch.device("meta")
    model, batch = plain_model(config, seed), collate(config, random_requests(config, 10, seed))
    with torch.no_grad():
        rows = {key: value.to(meta) for key, value in model.lookup(batch).items()}
    batch = batch.to(meta)
    with SequencesAsIndex() as indices:
        logits = model.to(meta).from_rows(batch, rows)
        loss = CellLoss(config, meta)
        counts = loss.counts(batch.labels, batch.surface_index)
        loss(logits, batch.labels, batch.surface_index, counts).objective.backward()
    assert logits.raw.shape == (batch.candidates, len(config.tasks))
    assert indices.found == []


def test_a_surface_may_be_named_shared() -> None:
    """Its rows go through its own tower, and those of the other surfaces through theirs."""
    text = json.dumps(random_config(1).model_dump(mode="json", by_alias=True))
    config = Config.model_validate(json.loads(text.replace('"search"', '"shared"')))
    model = plain_model(config, 1)
    assert [model.tower_name(name) for name in config.surfaces] == ["home", "shared", "related"]
    fusion = "towers.shared.tower.fusions.0.project.weight"
    assert fusion in model.state_dict()
    assert "low_rank_cross" in meaning(config, fusion)  # known by its class, as any surface's
    with torch.no_grad():
        logits = model(collate(config, random_requests(config, 10, 1, list(config.surfaces))))
    assert logits.raw.isfinite().all()


def test_the_history_is_not_read_without_a_sequence_block() -> None:
    base = random_config(1).model_dump(mode="json", by_alias=True)
    del base["surfaces"]["search"]["tower"]["modules"][1]
    base["model"]["sequence"] = None
    config = random_config(1, surfaces=base["surfaces"], model=base["model"])
    layout = Layout(config)
    assert layout.history_length == 0
    assert not any(column.level == "history" for column in (*layout.ids, *layout.numbers))
    assert "action" not in layout.collection_of  # only the history reads it


def test_a_sharded_model_has_no_views() -> None:
    config = random_config(0)
    with start_ranks(60) as ranks:
        model = sharded_model(config, ranks, plain_model(config))
        with pytest.raises(TypeError, match="ShardedLookup has no views"):
            model.module.for_surface("home")


def test_the_numbers_of_a_run_reach_every_transform() -> None:
    config = random_config(0)
    model = build_model(config)

    class Found:
        mean, std, quantiles = 3.0, 2.0, [float(i) for i in range(255)]

    model.fit_numbers({"candidate.price": Found, "request.query_length": Found})
    assert model.trunk.candidate_numbers.mean.tolist() == [3.0]
    tower = model.towers["search"]
    assert tower.request_numbers.mean.tolist() == [3.0]
    assert tower.candidate_numbers.mean.tolist() == [0.0]  # `match`, of which nothing was fitted


def test_ranks_fixture_is_alone() -> None:
    with start_ranks(60) as ranks:
        assert ranks == Ranks(0, 1, torch.device("cpu"))

"""One model for every surface."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recsys.config import Config, IdFeature, SurfaceConfig
from recsys.data.batch import Batch
from recsys.data.layout import Layout
from recsys.model.calibration import EVERY_SURFACE, Calibrator, build_calibrators
from recsys.model.lookup import Lookup, PlainLookup, ShardedLookup
from recsys.model.modules import build_module
from recsys.model.named import NamedModules
from recsys.model.numbers import NumberTransforms
from recsys.model.sequence import History
from recsys.model.slices import Slices, pick
from recsys.model.towers import LateFusion, Tower
from recsys.model.trunk import Trunk, TrunkOutput

SHARED = "shared"


@contextmanager
def own_random_numbers(name: str) -> Iterator[None]:
    """Draws inside come from a stream of their own, seeded by `name` and the seed in use.

    Adding a late-fusion module then leaves the initial weights of everything else as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() ^ zlib.crc32(name.encode()))
        yield


class SurfaceTower(nn.Module):
    """A tower and the inputs that its late-fusion modules read beside the trunk."""

    def __init__(self, layout: Layout, name: str, surface: SurfaceConfig, trunk: Trunk) -> None:
        super().__init__()
        config = layout.config
        modules = surface.tower.modules
        priors = config.model.gates.ppnet
        read = [*(i for module in modules for i in module.inputs), *priors]
        self.inputs = tuple(dict.fromkeys(read))
        features = config.features
        declared = {**features.request, **features.candidate}
        self.ids = {c.name: c for c in layout.ids if c.level != "history" and c.name in self.inputs}
        wanted = [n for n in self.inputs if n in declared and n not in self.ids]
        self.request_numbers = NumberTransforms(layout.numbers_of("request"), wanted)
        self.candidate_numbers = NumberTransforms(layout.numbers_of("candidate"), wanted)
        self.request_level = frozenset(features.request)
        widths: dict[str, int] = {}
        for each in self.inputs:
            if each == "trunk":
                widths[each] = config.model.projection.width
            elif each == "history":
                widths[each] = config.model.sequence.dim  # type: ignore[union-attr]
            elif isinstance(feature := declared[each], IdFeature):
                widths[each] = config.tables[feature.id].dim
            else:
                widths[each] = len(self._numbers(each).columns_of(each))
        fusions = []
        for at, module in enumerate(modules):
            where = f"surfaces.{name}.tower.modules[{at}]"
            with own_random_numbers(where):
                built = build_module(module, {i: widths[i] for i in module.inputs}, where)
                fusions.append((module.inputs, LateFusion(built, trunk.experts.out_features)))
        self.tower = Tower(
            surface.tower,
            list(surface.tasks),
            config.model,
            {name: widths[name] for name in priors},
            fusions,
        )

    def _numbers(self, name: str) -> NumberTransforms:
        return self.request_numbers if name in self.request_level else self.candidate_numbers

    def forward(
        self,
        batch: Batch,
        rows: Mapping[str, Tensor],
        trunk: TrunkOutput,
        slices: Slices,
        s: int,
    ) -> Tensor:
        """Logits `[n, T]` of the n candidates of surface number `s` of the batch."""
        inputs: dict[str, Tensor | History] = {}
        if self.inputs:
            requests = slice(batch.request_offsets[s], batch.request_offsets[s + 1])
            candidates = slice(batch.candidate_offsets[s], batch.candidate_offsets[s + 1])
            index = batch.request_index[candidates] - requests.start
            numbers = {
                True: self.request_numbers(batch.request_numbers[requests]),
                False: self.candidate_numbers(batch.candidate_numbers[candidates]),
            }
            for name in self.inputs:
                on_request = name in self.request_level
                if name == "trunk":
                    inputs[name] = slices.candidates(trunk.x, s)
                elif name == "history":
                    assert trunk.history is not None
                    inputs[name] = replace(
                        trunk.history.rows(requests, candidates),
                        tokens=slices.requests(trunk.history.tokens, s),
                    )
                elif name in self.ids:
                    row = rows[self.ids[name].key]
                    inputs[name] = (
                        slices.requests(row, s).index_select(0, index)
                        if on_request
                        else slices.candidates(row, s)
                    )
                else:
                    columns = self._numbers(name).columns_of(name)
                    value = pick(numbers[on_request], columns, dim=1)
                    inputs[name] = value[index] if on_request else value
        x, experts = slices.candidates(trunk.x, s), slices.candidates(trunk.experts, s)
        return self.tower(x, experts, inputs, trunk.stem, trunk.layers)


class Logits(NamedTuple):
    """Logits `[N, T]` of N candidates over all T tasks; 0 where a row's surface lacks the task."""

    raw: Tensor  # float32, of the heads
    calibrated: Tensor  # float64; its gradient reaches the calibrators and nothing else
    corrected: Tensor  # float64, calibrated and corrected for negative down-sampling
    # `[S, T]` of `training.balance`, for the loss. A copy of the parameter, in the model's output:
    # by the graph of that, data-parallel training finds out which parameters a step used.
    log_variances: Tensor | None = None

    def probabilities(self) -> Tensor:
        """What is served, float64 `[N, T]`."""
        return self.corrected.sigmoid()


class Score(nn.Module):
    """Everything of a model after its lookup, as a module that holds no weights of its own.

    `torch.fx`, by which the sparse pipeline finds the collections, takes it as a whole: which
    towers run depends on the batch.
    """

    def __init__(self, model: "UnifiedModel") -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the weights are the model's, under its names

    def forward(self, batch: Batch, rows: Mapping[str, Tensor]) -> Logits:
        return self._model[0].from_rows(batch, rows)


class UnifiedModel(nn.Module):
    """Lookup → trunk → the tower of each row's own surface → its calibrator.

    A row enters only the tower of its surface: the cost of the towers grows with the rows and not
    with rows × surfaces, and the gradient of one surface's loss in another's tower is exactly zero.
    """

    log_rates: Tensor | None
    log_variances: nn.Parameter | None

    def __init__(
        self,
        layout: Layout,
        lookup: Lookup,
        trunk: Trunk,
        towers: Mapping[str, SurfaceTower],
        calibrators: Mapping[str, Calibrator],
        log_variances: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.lookup = lookup
        self.trunk = trunk
        self.towers = NamedModules(towers)
        self.calibrators = NamedModules(calibrators)
        self.register_parameter("log_variances", log_variances)
        self.register_buffer("log_rates", log_sampling_rates(layout), persistent=False)
        self.score = Score(self)
        trunk_keys = set(trunk.keys)
        # Features that only late-fusion modules read: see `_touch`.
        self.late_keys = sorted(
            {c.key for tower in towers.values() for c in tower.ids.values()} - trunk_keys
        )

    def forward(self, batch: Batch) -> Logits:
        """The logits of a batch's candidates."""
        return self.score(batch, self.lookup(batch))

    def from_rows(self, batch: Batch, rows: Mapping[str, Tensor]) -> Logits:
        """`forward` without the lookup; `rows` are those of each feature by its key."""
        trunk = self.trunk(batch, rows)
        tasks = len(self.layout.tasks)
        slices = Slices(batch)
        parts, calibrated, corrected = [], [], []
        for s, surface in enumerate(self.layout.surfaces):
            if batch.candidate_offsets[s] == batch.candidate_offsets[s + 1]:
                continue
            tower = self.tower_of(surface)
            logits = tower(batch, rows, trunk, slices, s).float()
            parts.append(self._all_tasks(logits, tower.tower.tasks))
            calibrated.append(self.calibrate(parts[-1], surface))
            corrected.append(self.correct(calibrated[-1], s))
        if not parts:
            parts.append(trunk.x.new_zeros(0, tasks, dtype=torch.float32))
            calibrated = corrected = [parts[0].detach().double()]
        return Logits(
            self._touch(torch.cat(parts), trunk, rows),
            torch.cat(calibrated),
            torch.cat(corrected),
            None if self.log_variances is None else self.log_variances.clone(),
        )

    def calibrate(self, raw: Tensor, surface: str) -> Tensor:
        """Raw logits `[n, T]` of a surface's rows → calibrated ones, float64.

        They are cut off from the model, which must not learn to please its calibrators.
        """
        raw = raw.detach()
        calibrator = self.calibrator_of(surface)
        if calibrator is None:
            return raw.double()
        own = self.layout.config.surfaces[surface].tasks
        columns = self.layout.task_indices(surface)
        z = raw if tuple(own) == self.layout.tasks else pick(raw, columns, dim=1)
        return self._all_tasks(calibrator(z, tuple(own)), tuple(own))

    def correct(self, calibrated: Tensor, s: int) -> Tensor:
        """Logits `[n, T]` of surface number `s` as its log has them → as its traffic has them.

        Of the negatives the log kept a share w: `p / (1 − p)` of the traffic is w times that of
        the log, so that log w is added to the logit; `p' = p / (p + (1 − p) / w)` (He et al.,
        "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014).
        """
        return calibrated if self.log_rates is None else calibrated + self.log_rates[s]

    def calibrator_of(self, surface: str) -> Calibrator | None:
        """The calibrator of a surface's rows."""
        name = self.calibrator_name(surface)
        if name not in self.calibrators:
            return None
        calibrator = self.calibrators[name]
        assert isinstance(calibrator, Calibrator)
        return calibrator

    def calibrator_name(self, surface: str) -> str:
        """The name in `calibrators` of what calibrates the rows of a surface."""
        kind = self.layout.config.model.calibration.kind
        return EVERY_SURFACE if kind == "global" else surface

    def tower_of(self, surface: str) -> SurfaceTower:
        """What a surface's rows go through."""
        tower = self.towers[self.tower_name(surface)]
        assert isinstance(tower, SurfaceTower)
        return tower

    def tower_name(self, surface: str) -> str:
        """The name in `towers` of what the rows of a surface go through."""
        config = self.layout.config
        # Not by what `towers` has: a surface may be named so, too.
        return SHARED if config.model.towers == "shared" else config.tower_name(surface)

    def _all_tasks(self, logits: Tensor, tasks: Sequence[str]) -> Tensor:
        """Columns of some tasks `[n, len(tasks)]` → columns of all tasks `[n, T]`."""
        if tuple(tasks) == self.layout.tasks:
            return logits
        missing = logits.new_zeros(logits.shape[0])
        return torch.stack(
            [
                logits[:, tasks.index(task)] if task in tasks else missing
                for task in self.layout.tasks
            ],
            dim=1,
        )

    def _touch(self, logits: Tensor, trunk: TrunkOutput, rows: Mapping[str, Tensor]) -> Tensor:
        """Adds zero times whatever this rank's rows did not read.

        Under sharding, the backward pass of each lookup is a collective: every rank must enter it,
        also one without rows, or without rows of the surface that reads a feature. Otherwise the
        ranks that have such rows wait forever.
        """
        if not torch.is_grad_enabled() or not isinstance(self.lookup, ShardedLookup):
            return logits
        zero = sum((rows[key].sum() * 0.0 for key in self.late_keys), logits.new_zeros(()))
        if logits.shape[0] == 0:
            zero = zero + trunk.x.sum() * 0.0 + trunk.experts.sum() * 0.0
            # An empty product with the scalar keeps the graph: `0 rows + scalar` has no elements.
            return torch.cat([logits, zero.view(1, 1).expand(1, logits.shape[1])])[:0]
        return logits + zero

    def for_surface(self, surface: str) -> "UnifiedModel":
        """The model seen through one surface: the trunk, its tower, its calibrator and the tables
        these read.

        A view: it shares the weights, and its forward is this class's. Give it batches of that
        surface alone (`Batch.of_surface`). Needs a `PlainLookup`.
        """
        name, tower = self.tower_name(surface), self.tower_of(surface)
        keys = {*self.trunk.keys, *(column.key for column in tower.ids.values())}
        calibrator = self.calibrator_of(surface)
        calibrators = {} if calibrator is None else {self.calibrator_name(surface): calibrator}
        return UnifiedModel(
            self.layout, self.lookup.only(keys), self.trunk, {name: tower}, calibrators
        )

    def fit_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Hands the train split's number statistics to every `NumberTransforms`."""
        for module in self.modules():
            if isinstance(module, NumberTransforms):
                module.fit(numbers)


def log_sampling_rates(layout: Layout) -> Tensor | None:
    """log w of each (surface, task), `[S, T]` float64; 0 where the log has every negative.

    None if all logs have.
    """
    if not any(layout.config.surfaces[name].negative_sampling for name in layout.surfaces):
        return None
    found = torch.zeros(len(layout.surfaces), len(layout.tasks), dtype=torch.float64)
    for s, surface in enumerate(layout.surfaces):
        for task, rate in layout.config.surfaces[surface].negative_sampling.items():
            found[s, layout.tasks.index(task)] = math.log(rate)
    return found


def build_model(config: Config, lookup: Lookup | None = None) -> UnifiedModel:
    """The whole model of a configuration; in one process on ordinary tensors unless told."""
    layout = lookup.layout if lookup is not None else Layout(config)
    trunk = Trunk(layout, config.model)
    surfaces = {n: each for n, each in config.active_surfaces.items() if each.tower_of is None}
    if config.model.towers == "shared":
        first = next(iter(surfaces.values()))
        tasks = dict.fromkeys(config.tasks, 1.0)
        surfaces = {SHARED: SurfaceConfig(tasks=tasks, tower=first.tower)}
    towers = {n: SurfaceTower(layout, n, surface, trunk) for n, surface in surfaces.items()}
    calibrators = build_calibrators(
        config.model.calibration,
        {name: tuple(surface.tasks) for name, surface in config.active_surfaces.items()},
        config.tasks,
    )
    log_variances = None
    if config.training.balance.kind == "uncertainty":
        log_variances = nn.Parameter(torch.zeros(len(layout.surfaces), len(layout.tasks)))
    return UnifiedModel(
        layout, lookup or PlainLookup(layout), trunk, towers, calibrators, log_variances
    )

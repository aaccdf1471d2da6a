"""Goes on training an export on its surface's fresh data: a new version, without the joint run."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.config import Config, load_config
from recsys.config.training import DenseConfig
from recsys.data.fit import fit, fitted
from recsys.data.layout import IdColumn, Layout
from recsys.data.reader import Reader
from recsys.data.splits import Split, open_split
from recsys.data.statistics import Statistics
from recsys.errors import RunError, UserError
from recsys.export.artefact import CONFIG, Artefact, is_artefact
from recsys.export.export import data_document
from recsys.export.package import Package, Packaged
from recsys.export.parity import Compared, score_of_view
from recsys.export.rows import labelled_batches
from recsys.model.lookup import PlainLookup
from recsys.model.unified import UnifiedModel, build_model
from recsys.training.loss import CellLoss
from recsys.training.metrics_log import ProgressBar
from recsys.training.optimizers import CALIBRATORS, DenseOptimizer

log = logging.getLogger(__name__)
Metrics = dict[str, dict[str, float | int | None]]


def finetune(
    parent: Artefact, data: str, out: Path | None = None, overrides: list[str] | None = None
) -> Packaged:
    """Trains on `data`'s train split, keeps the epoch with the best NE on its valid split.

    Args:
        parent: the export to begin with; it is not changed.
        data: folder of fresh splits, as `data.root`.
        out: folder of exports; the parent's by default.
        overrides: `key=value`; besides `export.finetune` they may add tower modules, features of
            this surface alone and their tables.

    Raises `UserError` for wrong input; `RunError` if no epoch was better than the parent, and then
    nothing is written.
    """
    changes = [f"data.root={data}", *(overrides or [])]
    config = load_config(parent.path / CONFIG, changes)
    if tuple(config.surfaces) != (parent.surface,):
        raise UserError(f"--set surfaces: an export of {parent.surface} keeps that one surface")
    names: set[str] = {"train", "valid", config.export.split}
    splits = {name: open_split(config, name) for name in sorted(names)}
    statistics = grown_statistics(config, parent.statistics, splits["train"])
    model = grown_model(config, parent, statistics)
    before = metrics_of(model, statistics, splits[config.export.split])
    valid = _train(model, statistics, splits)
    after = metrics_of(model, statistics, splits[config.export.split])
    head = parent.manifest
    origin = {
        "source": head["source"],
        "parent": {"version": parent.version, "sha256": head["sha256"]},
        "lineage": [*head.get("lineage", []), parent.version],
        "finetune": {
            **config.export.finetune.model_dump(mode="json"),
            "data": data_document(config),
            "valid_ne": valid,
            "before": before,
            "after": after,
        },
    }
    package = Package(model, parent.recipe, statistics, splits[config.export.split], origin)
    return package.write(out or parent.path.parents[1])


def grown_statistics(config: Config, known: Statistics, train: Split) -> Statistics:
    """The parent's statistics, and those of added features fitted on the fresh train split.

    A vocabulary stays as it is: rows belong to its ids.
    """
    wanted = fitted(Layout(config))
    missing = [
        each
        for each in wanted
        if (
            each.feature.id not in known.vocabularies
            if isinstance(each, IdColumn)
            else each.key not in known.numbers
        )
    ]
    if not missing:
        return known
    fresh = fit(config, train)
    return Statistics(
        {**fresh.vocabularies, **known.vocabularies}, {**fresh.numbers, **known.numbers}
    )


@torch.no_grad()
def grown_model(config: Config, parent: Artefact, statistics: Statistics) -> UnifiedModel:
    """The parent's weights in a model of `config`, which may have more in the surface's tower.

    What is added starts as it does in training: a late-fusion module changes no prediction yet.
    Raises `UserError` if anything that is shared does not fit.
    """
    torch.manual_seed(config.training.seed)
    model, old = build_model(config), parent.model()
    assert isinstance(model.lookup, PlainLookup) and isinstance(old.lookup, PlainLookup)
    for name, table in model.lookup.tables.items():
        if name in old.lookup.tables:
            _copy(f"tables.{name}", table.weight, old.lookup.tables[name].weight)
    weights = old.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("lookup."):
            continue
        if name in weights and (weights[name].shape == value.shape or _is_shared(name)):
            _copy(name, value, weights[name])
        elif _is_shared(name):
            raise UserError(f"--set: {name} is not in {parent.path}; only the tower may grow")
    model.fit_numbers(statistics.numbers)
    return model


def _is_shared(name: str) -> bool:
    return name.startswith("trunk.")


def _copy(name: str, target: Tensor, source: Tensor) -> None:
    if target.shape != source.shape:
        raise UserError(
            f"--set: {name} would be {list(target.shape)}, but the export has "
            f"{list(source.shape)}; only the surface's tower may change"
        )
    target.copy_(source)


def metrics_of(model: UnifiedModel, statistics: Statistics, split: Split) -> Metrics:
    """AUC, NE and PCOC of each task on a split."""
    config = model.layout.config
    batches = labelled_batches(config, statistics, split, config.export.candidates)
    model.eval()
    return Compared(config, batches, score_of_view(model)).metrics(0)


def mean_ne(metrics: Metrics) -> float:
    """What early stopping looks at; raises `UserError` if no task has both labels."""
    known = [found["ne"] for found in metrics.values() if found["ne"] is not None]
    if not known:
        raise UserError("data.valid: no task has both labels; give more fresh data")
    return sum(known) / len(known)


def _train(
    model: UnifiedModel, statistics: Statistics, splits: dict[str, Split]
) -> dict[str, float]:
    """Trains in place; leaves the best epoch's weights. Returns NE on valid, before and after."""
    config = model.layout.config
    options = config.export.finetune
    trainer = _Trainer(model)
    first = best = mean_ne(metrics_of(model, statistics, splits["valid"]))
    kept: dict[str, Tensor] | None = None
    with ProgressBar("finetune", splits["train"].candidates * options.epochs, active=True) as bar:
        for epoch in range(options.epochs):
            model.train()
            with Reader(
                config,
                splits["train"],
                statistics,
                epoch=epoch,
                batch_candidates=config.training.batch_candidates,
            ) as reader:
                for batch in reader:
                    if batch.candidates:
                        trainer.step(batch)
                        bar.advance(batch.candidates)
            value = mean_ne(metrics_of(model, statistics, splits["valid"]))
            log.info("epoch %d: valid NE %.5f, %.5f before", epoch + 1, value, first)
            if value < best:
                best = value
                kept = {name: each.clone() for name, each in model.state_dict().items()}
    if kept is None:
        raise RunError(
            f"no epoch was better than NE {first:.5f} on the fresh valid split; nothing was "
            "written. Lower export.finetune.lr, or keep the version"
        )
    model.load_state_dict(kept)
    model.eval()
    return {"before": first, "after": best}


class _Trainer:
    """The steps on what the mode trains, each pulled to where it was."""

    def __init__(self, model: UnifiedModel) -> None:
        config = model.layout.config
        self.model = model
        self.options = config.export.finetune
        self.loss = CellLoss(config, torch.device("cpu"))
        self.number = 0
        chosen = dict(trained(model, self.options.mode))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        self.before = {name: each.detach().clone() for name, each in chosen.items()}
        self.chosen = chosen
        dense = {n: p for n, p in chosen.items() if not n.startswith("lookup.")}
        settings = config.training.dense.model_dump() | {"lr": self.options.lr, "decay": "none"}
        self.dense = DenseOptimizer(dense, DenseConfig(**settings), config.training.calibration)
        tables = [p for n, p in chosen.items() if n.startswith("lookup.")]
        self.tables = torch.optim.Adagrad(tables, lr=self.options.table_lr) if tables else None

    def step(self, batch: Any) -> None:
        logits = self.model(batch)
        counts = self.loss.counts(batch.labels, batch.surface_index)
        loss = self.loss(logits, batch.labels, batch.surface_index, counts).objective
        if not bool(loss.isfinite()):
            raise RunError(f"step {self.number + 1}: the loss is {float(loss)}; lower the rates")
        loss.backward()
        if self.options.l2:
            for name, parameter in self.chosen.items():
                # A calibrator follows its tower, wherever that goes.
                if parameter.grad is not None and not name.startswith(CALIBRATORS):
                    pull = parameter.detach() - self.before[name]
                    parameter.grad.add_(pull, alpha=self.options.l2)
        self.dense.step(self.number, 0.0)
        if self.tables is not None:
            self.tables.step()
            self.tables.zero_grad(set_to_none=True)
        self.number += 1


def trained(model: UnifiedModel, mode: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a mode trains, by name."""
    assert isinstance(model.lookup, PlainLookup)
    tables = set(model.lookup.tables) if mode == "all" else tower_tables(model)
    own = {id(model.lookup.tables[name].weight) for name in tables}
    prefixes = {
        "tower": ("towers.",),
        "trunk_top": ("towers.", "trunk.crossing.", "trunk.experts.", "trunk.layers."),
        "all": ("towers.", "trunk."),
    }[mode]
    for name, parameter in model.named_parameters():
        if name.startswith((*prefixes, CALIBRATORS)) or id(parameter) in own:
            yield name, parameter


def tower_tables(model: UnifiedModel) -> set[str]:
    """The tables that the tower reads and the trunk does not."""
    trunk = set(model.trunk.keys)
    readers: dict[str, set[bool]] = {}
    for column in model.layout.ids:
        readers.setdefault(column.feature.id, set()).add(column.key in trunk)
    return {table for table, shared in readers.items() if shared == {False}}


def find_artefact(path: Path, surface: str | None) -> Artefact:
    """The export at `path`; or of a run, or a folder of exports, the newest of a surface.

    Damaged ones are passed over then, with a warning.
    """
    if is_artefact(path) or surface is None:
        return Artefact(path)
    versions = []
    for folder in (path / "exports" / surface, path / surface):
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            if is_artefact(each):
                try:
                    versions.append(Artefact(each))
                except UserError as error:
                    log.warning("passed over: %s", error)
    if not versions:
        raise UserError(f"{path}: no whole export of surface {surface}; run recsys export first")
    return max(versions, key=lambda each: str(each.manifest["created"]))

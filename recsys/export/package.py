"""Writes a view as an artefact: whole, measured on real rows, or not at all."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import recsys
from recsys.config import dump_config
from recsys.config.export import Precision, Recipe
from recsys.data.batch import Batch
from recsys.data.encoding import table_encoders
from recsys.data.rowgroups import RowGroups
from recsys.data.schema import projection
from recsys.data.splits import Split
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.export.aot import check_compiler, compile_program, load_compiled
from recsys.export.artefact import COMPILED, CONFIG, EXAMPLE, PROGRAM, STATISTICS, WEIGHTS, Artefact
from recsys.export.manifest import (
    VERSION_LENGTH,
    architecture,
    schema_document,
    settings,
    sha256_of,
    sha256_of_tensors,
    write_manifest,
)
from recsys.export.parity import (
    Compared,
    Joint,
    Score,
    check_limits,
    latency,
    score_of_program,
    score_of_view,
)
from recsys.export.program import ServingModel, export_program, load_program, save_program
from recsys.export.rows import labelled_batches, single_requests
from recsys.export.signature import Signature
from recsys.files import whole_folder, write_json, write_text
from recsys.model.lookup import PlainLookup
from recsys.model.unified import UnifiedModel

# Requests whose latency is measured, and among which the example is chosen.
FIRST_REQUESTS = 100


@dataclass(frozen=True)
class Packaged:
    """An artefact that is there now; `written` if it was not before.

    `manifest` has parity and metrics of the rows given now, which need not be those of its file.
    """

    path: Path
    manifest: dict[str, Any]
    written: bool


class Package:
    """A view on its way to an artefact.

    Args:
        view: the model of one surface, in fp32 on ordinary tensors.
        recipe: in what it differs from the joint model's view.
        statistics: vocabularies and number statistics that the view reads.
        rows: labelled requests of this surface: parity, metrics and the example come from them.
        origin: `source` and `parent` of the manifest.
        joint: the model that the view was cut from and must score as, if there is one.
    """

    def __init__(
        self,
        view: UnifiedModel,
        recipe: Recipe,
        statistics: Statistics,
        rows: Split,
        origin: Mapping[str, Any],
        joint: Joint | None = None,
    ) -> None:
        assert isinstance(view.lookup, PlainLookup)
        self.view = view
        # Recorded as it was meant, whatever the defaults become.
        embeddings = recipe.embeddings or view.layout.config.export.embeddings
        self.recipe = recipe.model_copy(update={"embeddings": embeddings})
        self.statistics = statistics
        self.rows = rows
        self.origin = origin
        self.joint = joint
        self.layout = view.layout
        self.config = view.layout.config
        [self.surface] = view.layout.surfaces
        self.precisions = self._precisions()
        self.signature = Signature(self.layout)
        encoders = table_encoders(self.layout, statistics.vocabularies, {})
        self.schema = schema_document(self.layout, self.signature, encoders)
        for name, precision in self.precisions.items():
            self.schema["tables"][name]["precision"] = precision

    def _precisions(self) -> dict[str, Precision]:
        general = self.recipe.embeddings
        assert general is not None
        for name in self.recipe.tables:
            if name not in self.config.tables:
                raise UserError(
                    f"recipe: tables.{name}: surface {self.surface} reads no such table; its "
                    f"tables: {', '.join(self.config.tables)}"
                )
        return {name: self.recipe.tables.get(name, general) for name in self.config.tables}

    def version(self, weights: Mapping[str, Tensor]) -> str:
        """A hash of weights, recipe, schema and settings: what is the same has the same version."""
        vocabularies = {n: v.ids.to_pylist() for n, v in self.statistics.vocabularies.items()}
        parts = {
            "weights": sha256_of_tensors(weights),
            "recipe": self.recipe.model_dump(mode="json"),
            "schema": self.schema,
            "architecture": architecture(self.config),
            "settings": settings(self.config),
            "vocabularies": sha256_of(vocabularies),
            "parent": self.origin.get("parent"),
        }
        return sha256_of(parts)[:VERSION_LENGTH]

    def write(self, exports: Path) -> Packaged:
        """Writes `exports/SURFACE/VERSION`; one that is there stays, and is measured on the rows.

        Raises `UserError` if parity is past a limit or the disk is full; then nothing is left.
        """
        weights = {name: value.contiguous() for name, value in self.view.state_dict().items()}
        version = self.version(weights)
        target = exports / self.surface / version
        if target.exists():
            there = Artefact(target)
            measured = self._compare(score_of_program(there.program, self.signature))
            return Packaged(target, {**there.manifest, **measured}, written=False)
        if self.recipe.aot:
            check_compiler()
        singles = list(single_requests(self.config, self.statistics, self.rows, FIRST_REQUESTS))
        if not singles:
            raise UserError(
                f"{self.rows.url}: the first {FIRST_REQUESTS} requests of surface {self.surface} "
                "have no candidate; give rows that were shown"
            )
        try:
            with whole_folder(target) as folder:
                write_text(folder / CONFIG, dump_config(self.config))
                self.statistics.save(folder / STATISTICS)
                save_file(weights, folder / WEIGHTS)
                (folder / WEIGHTS).chmod(0o644)  # as the other files; safetensors writes 0600
                program, example = self._program()
                save_program(program, folder / PROGRAM)
                if self.recipe.aot:
                    compile_program(program, example, folder / COMPILED)
                measured = self._measure(folder, singles)
                manifest = write_manifest(folder, {**self._head(version), **measured})
        except (OSError, SafetensorError) as error:
            raise UserError(_not_written(target, error)) from None
        return Packaged(target, manifest, written=True)

    def _program(self) -> tuple[torch.export.ExportedProgram, dict[str, Tensor]]:
        """The program, and inputs that it was traced with."""
        serving = ServingModel(self.view, self.precisions)
        batch = next(
            labelled_batches(self.config, self.statistics, self.rows, self.config.export.candidates)
        )
        example = self.signature.tensors(batch)
        return export_program(serving, example), example

    def _head(self, version: str) -> dict[str, Any]:
        """What the artefact is."""
        return {
            "surface": self.surface,
            "version": version,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "written_by": {"recsys": recsys.__version__, "torch": torch.__version__},
            "tasks": list(self.layout.tasks),
            "recipe": self.recipe.model_dump(mode="json"),
            "precision": self.precisions,
            "calibration": {
                "kind": self.config.model.calibration.kind,
                "negative_sampling": self.config.surfaces[self.surface].negative_sampling,
            },
            "config_sha256": sha256_of(self.config.model_dump(mode="json", by_alias=True)),
            **self.origin,
            "schema": self.schema,
        }

    def _measure(self, folder: Path, singles: list[tuple[int, Batch]]) -> dict[str, Any]:
        """Parity, metrics and latency of the program as it was written; the example."""
        written: list[Callable[..., Any]] = [load_program(folder / PROGRAM)]
        if self.recipe.aot:
            written.append(load_compiled(folder / COMPILED))
        scores = [score_of_program(each, self.signature) for each in written]
        measured = [
            {**self._compare(score), "latency": latency(score, [batch for _, batch in singles])}
            for score in scores
        ]
        write_json(folder / EXAMPLE, self._example(folder, singles))
        return {**measured[0], "aot": measured[1] if self.recipe.aot else None}

    def _compare(self, score: Score) -> dict[str, Any]:
        """Parity and metrics. Raises `UserError` if the scores are past a limit."""
        most = self.config.export.candidates
        scores = [score_of_view(self.view), score]
        if self.joint is not None:
            scores.append(self.joint.score(self.rows, self.layout.tasks, most))
        batches = labelled_batches(self.config, self.statistics, self.rows, most)
        compared = Compared(self.config, batches, *scores)
        parity = {"rows": self.rows.url, **compared.document(), "joint": None}
        exact = set(self.precisions.values()) <= {"fp32"}
        limits = self.config.export.limits
        check_limits(parity, limits, exact, self.surface)
        if self.joint is not None:
            parity["joint"] = {"tasks": compared.differences(2, 1)}
            # Coarser tables have their own limits; the cut is exact whatever they are.
            cut = {**parity, "tasks": compared.differences(2, 1 if exact else 0)}
            check_limits(cut, limits, True, self.surface)
        return {"parity": parity, "metrics": compared.metrics(1)}

    def _example(self, folder: Path, singles: list[tuple[int, Batch]]) -> dict[str, Any]:
        """A request as its table has it, as tensors, and its scores."""
        # One that shows as much as possible: the longest history among the first ones.
        at, batch = max(singles, key=lambda each: each[1].longest_history)
        inputs = self.signature.tensors(batch)
        with torch.inference_mode():
            outputs = load_program(folder / PROGRAM)(**inputs)
        return {
            "request": request_at(self.rows, self.layout, at),
            "inputs": {name: tensor_document(value) for name, value in inputs.items()},
            "outputs": {name: tensor_document(value) for name, value in outputs.items()},
        }


def request_at(split: Split, layout: Any, at: int) -> dict[str, Any]:
    """The columns that the model reads of request number `at` of a split, as plain values."""
    chosen = projection(layout, split, predictions=False, labels=False)
    with RowGroups(split, chosen) as source:
        for number, group in enumerate(split.row_groups):
            if at < group.requests:
                [row] = source.table(number).slice(at, 1).to_pylist()
                return json.loads(json.dumps(row, default=str))
            at -= group.requests
    raise IndexError(at)


def tensor_document(value: Tensor) -> dict[str, Any]:
    """`{"dtype", "shape", "data"}`, data flat; null for NaN."""
    flat = value.reshape(-1).tolist()
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "data": [None if math.isnan(number) else number for number in flat],
    }


def _not_written(target: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return f"{target}: cannot be written ({reason}); free some space and export again"

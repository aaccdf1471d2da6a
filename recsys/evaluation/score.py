"""A trained run → scores, in one process."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from recsys.config import Config
from recsys.config.experiment import nearest
from recsys.data.batch import Batch
from recsys.data.faults import UnseenSurfaces
from recsys.data.layout import Layout
from recsys.data.reader import Reader
from recsys.data.splits import Split, open_table
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.evaluation.known import known_groups, segment_columns
from recsys.evaluation.metrics import weights
from recsys.evaluation.predictions import (
    LABEL,
    LOGIT,
    WEIGHT,
    PredictionsWriter,
    evaluate_predictions,
)
from recsys.evaluation.slices import segment_names
from recsys.model.unified import Logits, UnifiedModel, build_model
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.metrics_log import ProgressBar


def load_model(run: RunDirectory, config: Config) -> UnifiedModel:
    """The run's best checkpoint on ordinary tensors, in evaluation mode.

    Raises `UserError` if no checkpoint is complete.
    """
    found = checkpoint.best(run.checkpoints)
    if found is None:
        raise UserError(f"{run.checkpoints}: no complete checkpoint; finish or resume the training")
    model = build_model(config)
    state = {"model": model.state_dict()}
    checkpoint.load(found, state, alone=True)
    model.load_state_dict(state["model"])
    return model.eval()


class Scorer:
    """A run's model, or its view of one surface, over request tables.

    Args:
        run: the run directory.
        surface: score this surface alone, through `for_surface`; None scores all.
    """

    def __init__(self, run: RunDirectory, surface: str | None = None) -> None:
        self.config = run.config
        if surface is not None and surface not in self.config.active_surfaces:
            raise UserError(
                f"--surface {surface}: not in {run.config_file}; "
                f"{nearest(surface, self.config.active_surfaces)}"
            )
        self.layout = Layout(self.config)
        self.statistics = Statistics.load(run.statistics)
        self.surface = surface
        model = load_model(run, self.config)
        self.model = model if surface is None else model.for_surface(surface)

    @torch.inference_mode()
    def scores(
        self,
        split: str | Split,
        *,
        labels: bool,
        show: str | None = None,
        unseen: UnseenSurfaces | None = None,
    ) -> Iterator[tuple[Batch, Logits]]:
        """Batches with their logits, in the order of the files.

        Args:
            split: of the config, or a table.
            labels: whether labels are read.
            show: the label of a progress bar; None shows none.
            unseen: counts the requests that are scored as those of `data.fallback`; None has no
                such requests.
        """
        with (
            Reader(
                self.config,
                split,
                self.statistics,
                shuffle=False,
                batch_candidates=self.config.evaluation.batch_candidates,
                predictions=True,
                labels=labels,
                unseen=unseen,
            ) as reader,
            ProgressBar(show or "", reader.candidates, active=show is not None) as bar,
        ):
            for batch in reader:
                bar.advance(batch.candidates)
                part = batch
                if self.surface is not None:
                    part = batch.of_surface(self.layout.surfaces.index(self.surface))
                if part.candidates:
                    yield part, self.model(part)

    def columns(self, batch: Batch, logits: Logits) -> dict[str, Any]:
        """The identifying columns and the probability of each task; null where a row's surface
        does not have the task."""
        assert batch.columns is not None
        surface_index = batch.surface_index.numpy()
        found: dict[str, Any] = {
            name: batch.columns.column(name) for name in ("request_id", "candidate")
        }
        found["surface"] = pa.DictionaryArray.from_arrays(
            pa.array(surface_index, pa.int32()), pa.array(self.layout.surfaces)
        ).cast(pa.string())
        probabilities = logits.probabilities().numpy()
        for t, task in enumerate(self.layout.tasks):
            found[task] = np.ma.masked_array(
                probabilities[:, t], mask=~self._has(task)[surface_index]
            )
        return found

    def _has(self, task: str) -> np.ndarray:
        """[S], whether each surface has the task."""
        return np.array([task in self.config.surfaces[s].tasks for s in self.layout.surfaces])


def evaluate(
    run: RunDirectory,
    split: str = "test",
    surface: str | None = None,
    show: bool = True,
    fields: Sequence[str] = (),
    segments: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the predictions table of a split and returns its metrics.

    The result is `evaluate_predictions`'s, with `split` set; `fields` and `segments` come to those
    of the configuration. Raises `UserError` for a run without
    a complete checkpoint, an unknown surface or split, and faults in the data.
    """
    if split not in ("train", "valid", "test"):
        raise UserError(f"--split {split}: is train, valid or test")
    segments = segment_names(run.config.evaluation.segments, segments)  # before what takes long
    scorer = Scorer(run, surface)
    folder = run.predictions / (split if surface is None else f"{split}-{surface}")
    config = scorer.config
    known = known_groups(config)
    with PredictionsWriter(folder, replace=True) as writer:
        for batch, logits in scorer.scores(split, labels=True, show=split if show else None):
            rows = scorer.columns(batch, logits)
            rows |= _evaluation_columns(config, batch, logits, rows)
            own = segment_columns(batch, scorer.layout, known, rows["group"])
            writer.append({**rows, **{n: v for n, v in own.items() if n not in rows}})
    surfaces = [surface] if surface else list(config.active_surfaces)
    options = config.evaluation
    metrics = evaluate_predictions(
        folder,
        tasks=list(config.tasks),
        surfaces=surfaces,
        top=options.hit_at,
        fields=["surface", *options.fields, *fields],
        segments=segments,
    )
    return {**metrics, "split": split}


def _evaluation_columns(
    config: Config, batch: Batch, logits: Logits, rows: Mapping[str, Any]
) -> dict[str, Any]:
    """What a predictions table has besides scores: time, group, logits, labels, weights, kept
    columns."""
    assert batch.columns is not None
    group = config.evaluation.group
    found: dict[str, Any] = {
        "time": batch.columns.column("time"),
        "group": batch.columns.column(group) if group else pa.nulls(batch.candidates),
    }
    for t, task in enumerate(config.tasks):
        mask = np.ma.getmaskarray(rows[task])
        label = batch.labels[:, t].numpy()
        found[LOGIT + task] = np.ma.masked_array(logits.raw[:, t].numpy(), mask=mask)
        found[LABEL + task] = np.ma.masked_array(label, mask=mask)
        rates = np.array(
            [each.negative_sampling.get(task, 1.0) for each in config.active_surfaces.values()]
        )
        if (rates < 1).any():
            found[WEIGHT + task] = weights(label, rates[batch.surface_index.numpy()])
    for name in config.evaluation.keep:
        if name not in rows and name not in found:
            found[name] = batch.columns.column(name)
    return found


def predict(run: RunDirectory, table: str, out: Path, show: bool = True) -> dict[str, Any]:
    """Scores a request table without labels: one row a candidate, a column a task.

    Returns `{"out", "rows", "unseen": {"requests", "surfaces"}}`, unseen those that were scored as
    `data.fallback`. Raises `UserError` for faults in the table, or if `out` exists.
    """
    scorer, unseen = Scorer(run), UnseenSurfaces()
    group = scorer.config.evaluation.group
    with PredictionsWriter(out) as writer:
        for batch, logits in scorer.scores(
            open_table(table), labels=False, show="predict" if show else None, unseen=unseen
        ):
            assert batch.columns is not None
            rows = scorer.columns(batch, logits)
            rows["time"] = batch.columns.column("time")
            rows["group"] = batch.columns.column(group) if group else pa.nulls(batch.candidates)
            writer.append(rows)
    return {"out": str(out), "rows": writer.rows, "unseen": unseen.document()}

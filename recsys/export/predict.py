"""Scores a request table with an artefact alone."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from recsys.data.batch import Batch
from recsys.data.faults import UnknownIds, UnseenSurfaces
from recsys.data.reader import Reader
from recsys.data.splits import Split, open_table, own_rows
from recsys.evaluation.predictions import PredictionsWriter
from recsys.evaluation.score import predict as predict_with_run
from recsys.export.artefact import Artefact, is_artefact
from recsys.run_directory import RunDirectory
from recsys.training.metrics_log import ProgressBar


def predict_with(path: Path, table: str, out: Path) -> dict[str, Any]:
    """Scores a request table with what is at `path`: an export, or a run's joint model."""
    if is_artefact(path):
        return predict(Artefact(path), table, out)
    return predict_with_run(RunDirectory.open(path), table, out)


def predict(artefact: Artefact, table: str, out: Path, show: bool = True) -> dict[str, Any]:
    """Scores the artefact's surface in a request table without labels: one row a candidate.

    Rows of the other surfaces that the joint model had are passed over; those of surfaces that it
    did not have are scored by the export of `data.fallback`, where there is one. An id that no
    table knows reads the reserved row and is counted. Returns `{"out", "rows", "surface",
    "version", "unknown_ids": {column: {"unknown", "ids"}}, "unseen": {"requests", "surfaces"}}`.
    Raises `UserError` for faults in the table, or if `out` exists.
    """
    unknown = UnknownIds()
    unseen = UnseenSurfaces()
    split = own_rows(artefact.config, open_table(table), unseen=True)
    with (
        PredictionsWriter(out) as writer,
        _reader(artefact, split, unknown, unseen) as reader,
        ProgressBar("predict", reader.candidates, active=show) as bar,
    ):
        for batch in reader:
            bar.advance(batch.candidates)
            if batch.candidates:
                writer.append(_rows(artefact, batch))
    return {
        "out": str(out),
        "rows": writer.rows,
        "surface": artefact.surface,
        "version": artefact.version,
        "unknown_ids": {
            column: {"unknown": count, "ids": ids}
            for column, (count, ids) in unknown.counts.items()
        },
        "unseen": unseen.document(),
    }


def _reader(
    artefact: Artefact, split: Split, unknown: UnknownIds, unseen: UnseenSurfaces
) -> Reader:
    config = artefact.config
    return Reader(
        config,
        split,
        artefact.statistics,
        shuffle=False,
        batch_candidates=config.evaluation.batch_candidates,
        predictions=True,
        labels=False,
        unknown=unknown,
        unseen=unseen,
    )


def _rows(artefact: Artefact, batch: Batch) -> dict[str, Any]:
    """Rows of a predictions table."""
    assert batch.columns is not None
    with torch.inference_mode():
        outputs = artefact.program(**artefact.signature.tensors(batch))
    group = artefact.config.evaluation.group
    return {
        "request_id": batch.columns.column("request_id"),
        "candidate": batch.columns.column("candidate"),
        "surface": pa.repeat(artefact.surface, batch.candidates),
        **{task: outputs[task].numpy() for task in artefact.layout.tasks},
        "time": batch.columns.column("time"),
        "group": batch.columns.column(group) if group else pa.nulls(batch.candidates),
    }

"""What gradient-boosted trees reach on the inputs of a configuration: LightGBM, one model a task.

    python scripts/bench_gbdt.py configs/kuairand.yaml OUT [--set data.root=…] [--json]
    recsys report --predictions RUN/predictions/test OUT/test

The inputs are those of the trunk, read as training reads them: numbers raw, an id as the row of its
table – a category where the table has at most `--categories` rows, else left out, because trees
memorise long lists of ids – and the surface; `--inputs` chooses among them. Histories and lists of
ids are no inputs of trees.
Trees are added until the valid days are ranked no better. Writes the predictions tables OUT/valid
and OUT/test, which `recsys report` compares pairwise with a run's; of a log that has dropped
negatives (`negative_sampling`) with the same weights, and probabilities for the whole traffic.
"""

import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import typer

from recsys.config import Config
from recsys.config.load import load_config
from recsys.data.batch import Batch
from recsys.data.block import LEVELS
from recsys.data.fit import fit
from recsys.data.layout import IdColumn, Layout
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.evaluation.metrics import weights
from recsys.evaluation.predictions import (
    LABEL,
    LOGIT,
    WEIGHT,
    PredictionsWriter,
    evaluate_predictions,
)

PARAMETERS = {
    "objective": "binary",
    "metric": "auc",
    "feature_fraction": 0.3,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10,
    "max_bin": 127,
    "verbose": -1,
}
RARE = 0.1  # share of positives below which trees are small, or they memorise the positives


class Inputs:
    """Which columns the trees see, and a split as a matrix of them."""

    def __init__(
        self, config: Config, statistics: Statistics, categories: int, chosen: str = ""
    ) -> None:
        self.config, self.statistics, self.layout = config, statistics, Layout(config)
        self.ids = [
            column
            for column in self.layout.ids
            if column.level != "history"
            and not column.multi_valued
            and config.tables[column.feature.id].rows <= categories
        ]
        numbers = [
            f"{level}.{column.name}"
            for level in LEVELS
            if level != "history"
            for column in self.layout.numbers_of(level)
        ]
        ids = ["surface", *(column.key for column in self.ids)]
        names = [*ids, *numbers]
        self.kept = [at for at, name in enumerate(names) if re.search(chosen, name)]
        if not self.kept:
            raise typer.BadParameter(f"--inputs {chosen}: finds none of {', '.join(names)}")
        self.names = [names[at] for at in self.kept]
        self.categories = [at for at, name in enumerate(self.names) if name in ids]

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """Inputs `[N, F]` and labels `[N, T]`, NaN where null, and the columns that say which
        candidate a row is."""
        rows, labels, columns = [], [], []
        with Reader(
            self.config,
            split,
            self.statistics,
            shuffle=False,
            batch_candidates=self.config.evaluation.batch_candidates,
            predictions=True,
        ) as reader:
            for batch in reader:
                assert batch.columns is not None
                kept = [name for name in batch.columns.column_names if name != "surface"]
                surfaces = np.array(self.layout.surfaces)[batch.surface_index.numpy()]
                rows.append(self._matrix(batch))
                labels.append(batch.labels.numpy())
                columns.append(
                    batch.columns.select(kept).append_column("surface", pa.array(surfaces))
                )
        return np.concatenate(rows), np.concatenate(labels), pa.concat_tables(columns)

    def _matrix(self, batch: Batch) -> np.ndarray:
        index = batch.request_index
        ids = [self._id(batch, column) for column in self.ids]
        numbers = [batch.request_numbers[index], batch.candidate_numbers]
        parts = [batch.surface_index.view(-1, 1), *ids, *numbers]
        matrix = np.concatenate([part.numpy().astype(np.float32) for part in parts], axis=1)
        return matrix[:, self.kept]

    def _id(self, batch: Batch, column: IdColumn) -> Any:
        found = batch.sparse[self.layout.collection_of[column.feature.id]]
        rows = found[column.key].values().view(-1, 1)
        return rows[batch.request_index] if column.level == "request" else rows


def train(inputs: Inputs, data: dict[str, Any], t: int, seed: int, threads: int) -> lgb.Booster:
    """The trees of task number `t`."""
    share = np.nanmean(data["train"][1][:, t])
    shape = {"num_leaves": 15 if share < RARE else 63, "min_data_in_leaf": 200}
    sets = []
    for split in ("train", "valid"):
        rows, labels = data[split][:2]
        known = ~np.isnan(labels[:, t])
        sets.append(
            lgb.Dataset(
                rows[known],
                labels[known, t],
                reference=sets[0] if sets else None,
                feature_name=[name.replace(".", "_") for name in inputs.names],
                categorical_feature=inputs.categories,
            )
        )
    return lgb.train(
        {**PARAMETERS, **shape, "learning_rate": 0.03, "seed": seed, "num_threads": threads},
        sets[0],
        num_boost_round=3000,
        valid_sets=[sets[1]],
        callbacks=[lgb.early_stopping(60, verbose=False)],
    )


def write(inputs: Inputs, folder: Path, logits: np.ndarray, data: Any) -> None:
    """The predictions table of a split: logits `[N, T]`, null where a surface lacks the task."""
    config, (_, labels, columns) = inputs.config, data
    group = config.evaluation.group
    names = columns["surface"].to_numpy(zero_copy_only=False)
    surfaces, surface = np.unique(names, return_inverse=True)
    found = {name: columns[name] for name in ("request_id", "candidate", "surface", "time")}
    found["group"] = columns[group] if group else pa.nulls(len(columns))
    for t, task in enumerate(config.tasks):
        lacks = ~np.isin(names, [s for s, each in config.surfaces.items() if task in each.tasks])
        kept = [config.surfaces[s].negative_sampling.get(task, 1.0) for s in surfaces]
        rates = np.array(kept)[surface]
        probability = 1 / (1 + np.exp(-logits[:, t] - np.log(rates)))
        found[task] = np.ma.masked_array(probability, mask=lacks)
        found[LOGIT + task] = np.ma.masked_array(logits[:, t], mask=lacks)
        found[LABEL + task] = np.ma.masked_array(labels[:, t], mask=lacks)
        if (rates < 1).any():
            found[WEIGHT + task] = weights(labels[:, t], rates)
    found |= {name: columns[name] for name in config.evaluation.keep if name not in found}
    with PredictionsWriter(folder, replace=True) as writer:
        writer.append(found)


def main(
    path: Annotated[Path, typer.Argument(metavar="CONFIG")],
    out: Annotated[Path, typer.Argument(help="Folder for the predictions tables.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
    categories: Annotated[int, typer.Option(help="Most rows of a table that is an input.")] = 256,
    chosen: Annotated[
        str, typer.Option("--inputs", help="Regular expression of inputs. Default: all.")
    ] = "",
    seed: Annotated[int, typer.Option()] = 1,
    threads: Annotated[int, typer.Option()] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    config = load_config(path, overrides or [])
    inputs = Inputs(config, fit(config), categories, chosen)
    data = {split: inputs.read(split) for split in ("train", "valid", "test")}
    logits = {split: np.zeros((len(data[split][0]), len(config.tasks))) for split in data}
    found: dict[str, Any] = {"inputs": len(inputs.names), "tasks": {}}
    for t, task in enumerate(config.tasks):
        started = time.monotonic()
        trees = train(inputs, data, t, seed, threads)
        for split in ("valid", "test"):
            logits[split][:, t] = trees.predict(data[split][0], raw_score=True, num_threads=threads)
        found["tasks"][task] = {
            "trees": trees.best_iteration,
            "seconds": time.monotonic() - started,
        }
        typer.echo(f"{task}: {found['tasks'][task]}", err=True)
    for split in ("valid", "test"):
        write(inputs, out / split, logits[split], data[split])
        metrics = evaluate_predictions(out / split, tasks=config.tasks)["all"]["tasks"]
        for task in config.tasks:
            found["tasks"][task][split] = {name: metrics[task][name] for name in ("auc", "ne")}
    if as_json:
        print(json.dumps(found))
        return
    for task, each in found["tasks"].items():
        shown = "  ".join(
            f"{split} AUC {each[split]['auc']:.4f} NE {each[split]['ne']:.4f}"
            for split in ("valid", "test")
        )
        print(f"{task}: {each['trees']} trees, {shown}")


if __name__ == "__main__":
    typer.run(main)

"""Trees on a configuration's inputs, as a predictions table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from recsys.config import load_config
from recsys.data.splits import open_split
from recsys.evaluation.predictions import evaluate_predictions

pytest.importorskip("lightgbm")
SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_gbdt.py"


def test_a_row_for_each_candidate_that_the_report_can_read(
    simulated_log: Path, tmp_path: Path
) -> None:
    config = simulated_log / "config.yaml"
    out = tmp_path / "out"
    kept = "surfaces.home.negative_sampling={click: 0.25}"
    command = [sys.executable, str(SCRIPT), str(config), str(out), "--set", kept, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    summary = json.loads(found.stdout)
    table = pq.read_table(out / "test").to_pydict()
    split = open_split(load_config(config), "test")
    rows = set(zip(table["request_id"], table["candidate"], strict=True))
    assert len(rows) == len(table["candidate"]) == split.candidates
    metrics = evaluate_predictions(out / "test")
    for task, each in summary["tasks"].items():
        assert each["test"]["auc"] == metrics["all"]["tasks"][task]["auc"]
        known = [
            (label, score)
            for label, score in zip(table[f"label.{task}"], table[task], strict=True)
            if label is not None and score is not None
        ]
        labels, scores = zip(*known, strict=True)
        if task != "click":
            assert each["test"]["auc"] == pytest.approx(roc_auc_score(labels, scores))
    home = np.array(table["surface"]) == "home"
    label, weight = (np.array(table[f"{name}.click"]) for name in ("label", "weight"))
    assert np.array_equal(weight, np.where(home & (label == 0), 4.0, 1.0))
    odds = np.exp(np.array(table["logit.click"])) * np.where(home, 0.25, 1.0)
    assert np.allclose(table["click"], odds / (1 + odds))

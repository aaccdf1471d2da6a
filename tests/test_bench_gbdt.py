"""Trees on a configuration's inputs, as a predictions table."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
    command = [sys.executable, str(SCRIPT), str(config), str(out), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    summary = json.loads(found.stdout)
    table = pq.read_table(out / "test").to_pandas()
    split = open_split(load_config(config), "test")
    assert len(table) == split.candidates
    assert not table.duplicated(["request_id", "candidate"]).any()
    metrics = evaluate_predictions(out / "test")
    for task, each in summary["tasks"].items():
        assert each["test"]["auc"] == metrics["all"]["tasks"][task]["auc"]
        known = table[table[f"label.{task}"].notna() & table[task].notna()]
        expected = roc_auc_score(known[f"label.{task}"], known[task])
        assert each["test"]["auc"] == pytest.approx(expected)

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


def bench(config: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(config), str(out), *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_chosen_inputs_alone(simulated_log: Path, tmp_path: Path) -> None:
    config = simulated_log / "config.yaml"
    found = bench(config, tmp_path / "out", "--inputs", "^surface$")
    assert json.loads(found.stdout)["inputs"] == 1, found.stderr
    table = pq.read_table(tmp_path / "out" / "test")
    scores = table.group_by("surface").aggregate([("click", "min"), ("click", "max")])
    assert scores["click_min"] == scores["click_max"]
    none = bench(config, tmp_path / "none", "--inputs", "no such input")
    assert none.returncode == 2
    assert "finds none of surface, " in " ".join(none.stderr.split())


def test_a_row_for_each_candidate_that_the_report_can_read(
    simulated_log: Path, tmp_path: Path
) -> None:
    config = simulated_log / "config.yaml"
    out = tmp_path / "out"
    kept = "surfaces.home.negative_sampling={click: 0.25}"
    found = bench(config, out, "--set", kept)
    found.check_returncode()
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

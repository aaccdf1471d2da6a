"""The command, from logs to tables, with real runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.data.recipes.simulate import SimulateOptions, simulate
from tests.training.conftest import SMALL

STUDY = """
variants:
  joint: {}
  history off: {set: [model.sequence=null]}
  each: {each_surface: true, set: [model.sequence=null]}
"""


def ablate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recsys.cli", "ablate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_variants_are_trained_judged_and_not_trained_again(tmp_path: Path) -> None:
    logs, out, study = tmp_path / "logs", tmp_path / "out", tmp_path / "study.yaml"
    simulate(logs, SimulateOptions(requests=400, users=20, candidates=4, row_group_requests=32))
    study.write_text(STUDY)
    sets = [part for each in SMALL for part in ("--set", each)]
    common = [logs / "config.yaml", "--study", study, "--out", out, "--seeds", "1", *sets]
    first = ablate(*common, "--only", "joint", "--json")
    assert first.returncode == 0, first.stderr
    config = json.loads(first.stdout)
    assert list(config["variants"]) == ["joint"]
    trained = (out / "joint" / "seed1" / "test.json").stat().st_mtime_ns
    done = ablate(*common, "--json")
    assert done.returncode == 0, done.stderr
    assert (out / "joint" / "seed1" / "test.json").stat().st_mtime_ns == trained
    found = json.loads(done.stdout)
    assert json.loads((out / "ablation.json").read_text()) == found
    cells = {
        name: {(x["surface"], x["task"]) for x in v["auc"]} for name, v in found["variants"].items()
    }
    assert cells["joint"] == cells["each"] >= {("all", "click"), ("home", "like")}
    parts = sorted(path.name for path in (out / "each").iterdir())
    assert parts == ["home-seed1", "related-seed1", "search-seed1"]
    assert "| history off |" in (out / "ablation.md").read_text()
    assert "history off" in (out / "ablation.html").read_text()
    assert [x["task"] for x in found["variants"]["each"]["field_ece"]] == [
        x["task"] for x in found["variants"]["joint"]["field_ece"]
    ]
    other = ablate(*common, "--set", "training.sparse.lr=0.5")
    assert other.returncode == 2
    assert "training.sparse.lr: is 0.5 here but 0.02 in" in other.stderr
    assert "give another --out" in other.stderr
    # Only its own data makes a result again, whatever lies there now.
    shutil.rmtree(logs)
    simulate(logs, SimulateOptions(requests=300, users=20, candidates=4, row_group_requests=32))
    fewer = ablate(*common)
    assert fewer.returncode == 2, fewer.stderr
    assert "but the run began with" in fewer.stderr
    assert fewer.stderr.strip().endswith("give another --out, or remove that run")

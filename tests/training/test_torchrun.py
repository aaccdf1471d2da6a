"""`recsys train` as a user starts it on two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from recsys.config import load_config
from recsys.evaluation.score import load_model
from recsys.run_directory import RunDirectory
from tests.training.conftest import SMALL
from tests.training.runs import lines_of


def test_two_ranks_under_torchrun(logs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [part for override in SMALL for part in ("--set", override)]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        # Without the `--`, torchrun takes --run for a short form of an option of its own.
        *("--standalone", "-m", "--", "recsys.cli", "train", str(logs / "config.yaml")),
        *("--run", str(run), "--json", *sets),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)  # one rank prints, and nothing else
    table = pq.read_table(logs / "train", columns=["candidates"])
    assert summary["candidates"] == sum(map(len, table["candidates"].to_pylist()))
    assert [line["step"] for line in lines_of(run, "train")] == list(range(1, summary["steps"] + 1))
    # Two ranks take twice the candidates a step.
    config = load_config(run / "config.yaml")
    steps = summary["candidates"] / (2 * config.training.batch_candidates)
    assert steps <= summary["steps"] < 1.5 * steps + 1
    model = load_model(RunDirectory.open(run), config)
    assert set(model.lookup.tables) == set(config.tables)  # type: ignore[arg-type]

"""The script that checks the CUDA path: what of it runs without a GPU, runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def gpu_check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the script itself")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = gpu_check("--out", tmp_path)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    done = gpu_check("--out", tmp_path, "--device", "cpu", "--quick", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    rows = {what: value for what, value, _ in found["rows"]}
    assert found["failed"] == []
    # The same device twice: the same predictions, and the pipeline changes nothing.
    assert rows["predictions, largest |Δp|"] == 0
    assert rows["sparse pipeline: loss of 5 steps, largest relative Δ"] == 0
    assert "collections are pipelined" in rows["sparse pipeline: modules"]
    assert rows["steps in bf16, candidates/s"] > 0
    assert (tmp_path / "trace.json").stat().st_size > 0

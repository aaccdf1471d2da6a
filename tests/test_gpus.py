"""Which GPUs count."""

import sys
from pathlib import Path

import pytest
import torch

from recsys.gpus import usable_gpus


@pytest.mark.parametrize(("build", "usable"), [("fbgemm_gpu_cpu", 0), ("fbgemm_gpu", 2)])
def test_a_gpu_counts_if_fbgemm_is_built_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, usable: int
) -> None:
    metadata = tmp_path / f"{build}-1.8.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {build.replace('_', '-')}\nVersion: 1.8.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_gpus() == usable

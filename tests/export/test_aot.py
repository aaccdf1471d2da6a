"""Packages that AOTInductor compiled."""

import shutil
from pathlib import Path

import pytest
import torch

from recsys.config.export import Recipe
from recsys.data.splits import open_table, own_rows
from recsys.errors import UserError
from recsys.export.aot import load_compiled
from recsys.export.artefact import COMPILED, Artefact
from recsys.export.export import export
from recsys.export.rows import labelled_batches, single_requests
from recsys.run_directory import RunDirectory


def test_without_a_compiler(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"--aot: no C\+\+ compiler found \(g\+\+ or clang\+\+\)"):
        export(run, "home", tmp_path / "out", Recipe(aot=True))
    monkeypatch.setenv("CXX", "nowhere-g++")
    with pytest.raises(UserError, match=r"no C\+\+ compiler found \(nowhere-g\+\+\)"):
        export(run, "home", tmp_path / "out", Recipe(aot=True))
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_it_scores_as_the_program_does(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
) -> None:
    artefact = Artefact(export(run, "search", tmp_path, Recipe(aot=True)).path)
    parity = artefact.manifest["aot"]["parity"]
    assert max(found["probability"] for found in parity["tasks"].values()) <= 1e-6
    assert artefact.manifest["files"][COMPILED]["bytes"] > 0
    compiled = load_compiled(artefact.path / COMPILED)

    def assert_same(inputs: dict[str, torch.Tensor]) -> None:
        expected, found = artefact.program(**inputs), compiled(**inputs)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)

    rows = own_rows(artefact.config, open_table(str(simulated_log / "test")))
    [batch] = labelled_batches(artefact.config, artefact.statistics, rows, 10_000)
    assert_same(artefact.signature.tensors(batch))
    sizes = set()
    for _, single in single_requests(artefact.config, artefact.statistics, rows, 20):
        assert_same(artefact.signature.tensors(single))
        sizes.add(single.candidates)
    assert min(sizes) < 3
    # One candidate without a history.
    inputs = artefact.signature.tensors(single)
    for name, value in inputs.items():
        if name.startswith("history_") and name != "history_lengths":
            inputs[name] = value[:0]
    inputs["history_lengths"] = torch.zeros_like(inputs["history_lengths"])
    assert_same(inputs)

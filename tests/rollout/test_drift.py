"""Drift: the measures on arrays that can be worked out, the verdicts of exports, re-baselining."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from recsys.cli import app
from recsys.config import load_config
from recsys.config.export import DriftConfig, Recipe
from recsys.errors import UserError
from recsys.export.artefact import Artefact
from recsys.export.export import export
from recsys.rollout.drift import EXIT_CODE, drift, kl, print_drift, psi, reasons
from recsys.run_directory import RunDirectory
from recsys.training.train import train
from tests.training.conftest import SMALL


def test_psi_and_kl_by_hand():
    # Deciles of 0 … 99 are buckets of ten; then all scores fall into the last one.
    expected = np.arange(100.0)
    found = np.full(100, 99.0)
    a = np.full(10, 0.1)
    b = np.array([1e-4] * 9 + [1.0])
    assert psi(expected, found) == pytest.approx(((a - b) * np.log(a / b)).sum())
    assert kl(expected, found) == pytest.approx((a * np.log(a / b)).sum())


def test_equal_scores_have_not_drifted():
    scores = np.random.default_rng(0).random(1000)
    assert psi(scores, scores[::-1]) == kl(scores, scores) == 0


def test_scores_that_are_all_equal():
    assert psi(np.full(5, 0.5), np.full(9, 0.5)) == 0


def result(**changes: float) -> dict:
    values = {"trunk": 0.0, "psi": 0.0, "ne": 0.0, "pcoc": 0.0} | changes
    task = {
        "psi": values["psi"],
        "ne": {"difference": values["ne"]},
        "pcoc": {"difference": values["pcoc"]},
    }
    return {"trunk": values["trunk"], "tasks": {"click": task}}


@pytest.mark.parametrize("name", ["trunk", "psi", "ne", "pcoc"])
def test_each_threshold_is_a_reason(name: str):
    limits = DriftConfig(trunk=0.2, psi=0.2, ne=0.2, pcoc=0.2)
    assert reasons(result(), limits) == []
    assert reasons(result(**{name: 0.19}), limits) == []
    assert len(reasons(result(**{name: 0.21}), limits)) == 1


def test_a_metric_without_a_value_is_no_reason():
    found = result()
    found["tasks"]["click"]["ne"]["difference"] = None
    found["tasks"]["click"]["pcoc"]["difference"] = None
    assert reasons(found, DriftConfig()) == []


def test_a_version_has_not_drifted_from_itself_and_that_is_said(
    exports: dict[str, Artefact],
    simulated_log: Path,
):
    found = drift(exports["home"], str(simulated_log / "test"))
    assert found["trunk"] == 0 and found["verdict"] == "keep"
    assert EXIT_CODE[found["verdict"]] == 0
    for values in found["tasks"].values():
        assert values["psi"] == values["ne"]["difference"] == 0
    assert found["note"].startswith("nothing was compared")
    console = Console(record=True, width=200, file=io.StringIO())
    print_drift(found, console)
    assert "nothing was compared" in console.export_text()


def test_an_export_has_not_drifted_from_its_run(
    exported_run: RunDirectory,
    exports: dict[str, Artefact],
    simulated_log: Path,
):
    found = drift(exports["search"], str(simulated_log / "test"), exported_run.path)
    assert found["trunk"] == 0 and found["verdict"] == "keep" and found["note"] is None


def test_another_surface_is_no_baseline(
    exports: dict[str, Artefact],
    simulated_log: Path,
):
    table = str(simulated_log / "test")
    with pytest.raises(UserError, match="is an export of surface search, not of home"):
        drift(exports["home"], table, exports["search"].path)


def drift_and_rebaseline(version: Path, table: Path, *more: str) -> tuple[int, dict]:
    arguments = ["drift", str(version), "--data", str(table), "--json", *more]
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, json.loads(done.stdout)


def test_rebaselining_exports_the_newest_run_by_the_same_recipe(
    exported_run: RunDirectory, simulated_log: Path, tmp_path: Path
):
    recipe = Recipe(tasks=("click",), embeddings="int8")
    limits = ["export.limits.auc=1", "export.limits.ne=1", "export.limits.probability=1"]
    old = export(exported_run, "search", tmp_path / "exports", recipe, overrides=limits).path
    manifest = (old / "manifest.json").read_bytes()
    table, latest = simulated_log / "test", tmp_path / "latest"
    changes = [*SMALL, "training.seed=2", *limits]
    train(load_config(simulated_log / "config.yaml", changes), latest)

    code, found = drift_and_rebaseline(old, table, "--rebaseline", str(latest))
    assert code == 0 and "rebaselined" not in found  # as it has not drifted

    against = ["--against", str(latest), "--rebaseline", str(latest)]
    code, found = drift_and_rebaseline(old, table, *against)
    assert code == 3
    new = Artefact(Path(found["rebaselined"]["path"]))
    assert new.path.parent == old.parent and new.path != old
    assert new.recipe == recipe
    assert new.manifest["source"]["run"] == "latest"
    comparison = found["rebaselined"]["comparison"]
    assert (comparison["version"], comparison["baseline"]) == (old.name, new.version)
    assert list(comparison["tasks"]) == ["click"]
    assert (old / "manifest.json").read_bytes() == manifest

"""Drift: the measures on arrays that can be worked out, and the verdicts of exports."""

from pathlib import Path

import numpy as np
import pytest

from recsys.config.export import DriftConfig
from recsys.errors import UserError
from recsys.export.artefact import Artefact
from recsys.rollout.drift import EXIT_CODE, drift, kl, psi, reasons
from recsys.run_directory import RunDirectory


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


def test_a_version_has_not_drifted_from_itself(
    exports: dict[str, Artefact],
    simulated_log: Path,
):
    found = drift(exports["home"], str(simulated_log / "test"))
    assert found["trunk"] == 0 and found["verdict"] == "keep"
    assert EXIT_CODE[found["verdict"]] == 0
    for values in found["tasks"].values():
        assert values["psi"] == values["ne"]["difference"] == 0


def test_an_export_has_not_drifted_from_its_run(
    exported_run: RunDirectory,
    exports: dict[str, Artefact],
    simulated_log: Path,
):
    found = drift(exports["search"], str(simulated_log / "test"), exported_run.path)
    assert found["trunk"] == 0 and found["verdict"] == "keep"


def test_another_surface_is_no_baseline(
    exports: dict[str, Artefact],
    simulated_log: Path,
):
    table = str(simulated_log / "test")
    with pytest.raises(UserError, match="is an export of surface search, not of home"):
        drift(exports["home"], table, exports["search"].path)

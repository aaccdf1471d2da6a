"""Means, paired differences and the composition effect, against numbers by hand."""

from typing import Any

import pytest
from scipy import stats

from recsys.ablation.judge import interval, summarise
from recsys.ablation.show import markdown


def metrics(auc: float, home: float | None = 0.5) -> dict[str, Any]:
    one = {"auc": auc, "ne": 1 - auc}
    return {
        "all": {"tasks": {"click": one}},
        "surfaces": {"home": {"tasks": {"click": {"auc": home, "ne": 0.9}}}},
    }


JUDGED = {
    "MMoE + history": [metrics(0.80), metrics(0.82)],
    "shared bottom": [metrics(0.70), metrics(0.70)],
    "MMoE": [metrics(0.72), metrics(0.73)],
    "history": [metrics(0.75), metrics(0.76, None)],
}


def line(document: dict[str, Any], name: str, surface: str) -> dict[str, Any]:
    return next(x for x in document["variants"][name]["auc"] if x["surface"] == surface)


def test_means_and_differences_are_paired_by_seed() -> None:
    found = line(summarise(JUDGED), "MMoE", "all")
    assert found["mean"] == pytest.approx(0.725)
    assert found["sd"] == pytest.approx(0.0070711, rel=1e-3)
    assert found["difference"]["mean"] == pytest.approx(-0.085)
    # Differences -0.08 and -0.09: standard error 0.005.
    half = stats.t.ppf(0.975, 1) * 0.005
    assert found["difference"]["low"] == pytest.approx(-0.085 - half)
    assert found["difference"]["high"] == pytest.approx(-0.085 + half)


def test_a_metric_without_a_value_in_some_seed() -> None:
    found = line(summarise(JUDGED), "history", "home")
    assert found["seeds"] == 1
    assert found["sd"] is None
    assert found["difference"] == {"mean": 0.0, "low": None, "high": None}


def test_the_composition_effect() -> None:
    (found,) = [x for x in summarise(JUDGED)["composition"] if x["metric"] == "auc"]
    assert found["mixture"] == pytest.approx(0.025)
    assert found["history"] == pytest.approx(0.055)
    assert found["together"] == pytest.approx(0.11)
    # (.10 - .02 - .05) and (.12 - .03 - .06): .03 both times.
    assert found["more_than_apart"]["mean"] == pytest.approx(0.03)


def test_one_seed_has_no_interval_and_equal_ones_have_no_width() -> None:
    assert interval([0.1]) == {"mean": 0.1, "low": None, "high": None}
    assert interval([0.1, 0.1]) == {"mean": 0.1, "low": 0.1, "high": 0.1}


def test_as_markdown() -> None:
    text = markdown({"split": "test", "seeds": [1, 2], **summarise(JUDGED)})
    assert "## AUC, test split, mean of 2 seeds" in text
    assert "| MMoE + history | 0.8100 ± 0.0141 |" in text
    assert "| shared bottom | -0.1100 (" in text
    assert "| merged logs | AUC | click | +0.0250 | +0.0550 | +0.1100 | +0.0300 (" in text
    assert "a model a surface" not in text

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
    assert found["mixture"]["mean"] == pytest.approx(0.025)
    assert found["history"]["mean"] == pytest.approx(0.055)
    assert found["apart"]["mean"] == pytest.approx(0.08)
    assert found["together"]["mean"] == pytest.approx(0.11)
    # (.02, .03): standard error .005.
    half = stats.t.ppf(0.975, 1) * 0.005
    assert found["mixture"]["high"] == pytest.approx(0.025 + half)
    # (.10 - .02 - .05) and (.12 - .03 - .06): .03 both times.
    assert found["more_than_apart"]["mean"] == pytest.approx(0.03)


def test_the_effect_on_merged_logs_against_that_surface_by_surface() -> None:
    alone = {
        "MMoE + history": [metrics(0.76), metrics(0.77)],
        "shared bottom": [metrics(0.70), metrics(0.70)],
        "MMoE": [metrics(0.71), metrics(0.72)],
        "history": [metrics(0.74), metrics(0.74)],
    }
    judged = JUDGED | {f"a model a surface: {name}": seeds for name, seeds in alone.items()}
    lines = {
        line["logs"]: line for line in summarise(judged)["composition"] if line["metric"] == "auc"
    }
    assert list(lines) == ["merged logs", "a model a surface", "merged − alone"]
    assert lines["a model a surface"]["more_than_apart"]["mean"] == pytest.approx(0.01)
    last = lines["merged − alone"]
    assert last["more_than_apart"]["mean"] == pytest.approx(0.02)  # .03 less .01, in both seeds
    assert last["together"]["mean"] == pytest.approx(0.045)  # (.10 − .06, .12 − .07)
    assert last["together"]["low"] < last["together"]["mean"]


def test_field_ece_is_that_by_surface_of_all_rows() -> None:
    one = {**metrics(0.8), "field_ece": {"surface": {"click": 0.012, "like": None}}}
    found = summarise({"a": [one], "b": [metrics(0.7)]})["variants"]
    assert [(x["surface"], x["task"], x["mean"]) for x in found["a"]["field_ece"]] == [
        ("all", "click", 0.012)
    ]
    assert found["b"]["field_ece"][0]["mean"] is None


def test_one_seed_has_no_interval_and_equal_ones_have_no_width() -> None:
    assert interval([0.1]) == {"mean": 0.1, "low": None, "high": None}
    assert interval([0.1, 0.1]) == {"mean": 0.1, "low": 0.1, "high": 0.1}


def test_a_surface_that_the_first_variant_lacks_is_shown() -> None:
    fewer = [{**metrics(0.8), "surfaces": {}}]
    text = markdown({"split": "test", "seeds": [1], **summarise({"a": fewer, "b": [metrics(0.7)]})})
    assert "## AUC, test split, seed 1: home" in text


def test_as_markdown() -> None:
    text = markdown({"split": "test", "seeds": [1, 2], **summarise(JUDGED)})
    assert "## AUC, test split, mean of 2 seeds: all" in text
    assert "| MMoE + history | 0.8100 ± 0.0141 |" in text
    assert "| shared bottom | -0.1100 (" in text
    assert "| merged logs | AUC | click | +0.0250 (" in text
    assert "| +0.1100 (" in text
    assert "| +0.0300 (+0.0300 … +0.0300) |" in text
    assert "FIELD" not in text  # these metrics have none
    assert "Field" not in text
    assert "a model a surface" not in text
    assert "seeds: home" in text
    brief = markdown({"split": "test", "seeds": [1, 2], **summarise(JUDGED)}, every_surface=False)
    assert "seeds: home" not in brief
    assert set(brief.splitlines()) < set(text.splitlines())

"""Intervals: against the ordinary bootstrap over users, and where there are none."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recsys.evaluation.bootstrap import estimate, resamples, weighted
from recsys.evaluation.measure import measure
from recsys.evaluation.predictions import PredictionsWriter
from recsys.evaluation.rows import PredictionRows
from recsys.report.figures import Judged


def clicks(users=300, seed=0):
    """Users differ in how much they click and how often they come, so that rows are not
    independent."""
    generator = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), generator.integers(1, 20, users))
    own = generator.normal(0, 1.5, users)[user]
    logit = own + generator.normal(0, 1, len(user)) - 1
    label = generator.random(len(user)) < 1 / (1 + np.exp(-logit))
    score = 1 / (1 + np.exp(-(logit + generator.normal(0, 1, len(user)))))
    return {
        "request_id": np.arange(len(user)),
        "candidate": np.zeros(len(user), int),
        "surface": np.where(user % 2 == 0, "home", "search"),
        "time": np.zeros(len(user), int),
        "group": user,
        "click": score,
        "label.click": label.astype(float),
    }


def judged(folder, data, buckets=1024, count=800, seed=0):
    with PredictionsWriter(folder) as writer:
        writer.append(data)
    with PredictionRows(folder) as rows:
        found = measure(rows, buckets=buckets)
    return Judged(found, resamples(found.active, count, seed))


KEY = ("all", "all", "click")


@pytest.fixture(scope="module")
def brute():
    """AUC, PCOC and log loss in 800 resamples of users, each from all its rows."""
    data = clicks()
    p, y, user = data["click"], data["label.click"], data["group"]
    generator = np.random.default_rng(7)
    found = []
    for _ in range(800):
        drawn = np.bincount(generator.integers(0, 300, 300), minlength=300)
        w = drawn[user].astype(float)
        loss = -np.average(np.where(y == 1, np.log(p), np.log1p(-p)), weights=w)
        found.append([roc_auc_score(y, p, sample_weight=w), (w * p).sum() / (w * y).sum(), loss])
    return data, np.array(found)


@pytest.mark.parametrize("buckets", [1024, 128])
def test_intervals_are_those_of_the_bootstrap_over_users(brute, tmp_path, buckets):
    """With a bucket for each user, and with several users a bucket."""
    data, expected = brute
    found = judged(tmp_path / "test", data, buckets).metrics(KEY)
    # 800 resamples know a standard deviation to 2.5 %, 128 buckets to 6 %.
    tolerance = 0.12 if buckets == 1024 else 0.25
    for name, values in zip(("auc", "pcoc", "logloss"), expected.T, strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[name]["se"] == pytest.approx(values.std(ddof=1), rel=tolerance)
        width = found[name]["high"] - found[name]["low"]
        assert width == pytest.approx(high - low, rel=tolerance)
        assert found[name]["low"] == pytest.approx(low, abs=tolerance * (high - low))
    assert found["auc"]["value"] == pytest.approx(
        roc_auc_score(data["label.click"], data["click"]), rel=1e-12
    )


def test_rows_of_one_user_are_not_taken_for_independent(tmp_path):
    data = clicks()
    rows = data | {"group": np.arange(len(data["group"]))}
    by_row = judged(tmp_path / "rows", rows, buckets=8192).metrics(KEY)["base_rate"]
    by_user = judged(tmp_path / "users", data).metrics(KEY)["base_rate"]
    y = data["label.click"]
    assert by_row["se"] == pytest.approx(y.std() / len(y) ** 0.5, rel=0.12)
    assert by_user["se"] > 1.5 * by_row["se"]


def test_a_paired_difference_is_narrower_than_its_parts(tmp_path):
    data = clicks()
    generator = np.random.default_rng(1)
    noise = np.exp(generator.normal(0, 0.6, len(data["click"])))
    odds = data["click"] / (1 - data["click"]) * noise
    one = judged(tmp_path / "one", data)
    other = judged(tmp_path / "other", data | {"click": odds / (1 + odds)})
    found = other.difference(one, KEY)
    assert found["auc"]["value"] == pytest.approx(
        other.metrics(KEY)["auc"]["value"] - one.metrics(KEY)["auc"]["value"]
    )
    assert found["auc"]["se"] < 0.6 * one.metrics(KEY)["auc"]["se"]
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"] < 0
    same = one.difference(one, KEY)
    assert {same[name]["high"] for name in ("auc", "ne", "ece")} == {0.0}


def test_what_a_resample_adds_to_ece_is_taken_off(tmp_path):
    """Of a calibrated model, all of ECE is what the rows add to it."""
    generator = np.random.default_rng(3)
    data = clicks()
    count = len(data["click"])
    p = generator.random(count)
    data |= {"click": p, "label.click": (generator.random(count) < p).astype(float)}
    both = judged(tmp_path / "test", data)
    found = both.metrics(KEY)["ece"]
    assert found["value"] > 0.03
    assert np.quantile(both.replicates[KEY]["ece"], 0.025) > found["value"]
    assert 0 <= found["low"] < found["high"] < found["value"]


def test_too_few_users_have_no_interval(tmp_path):
    data = clicks(users=8)
    found = judged(tmp_path / "few", data).metrics(KEY)
    assert found["auc"]["value"] is not None
    assert (found["auc"]["low"], found["auc"]["high"], found["auc"]["se"]) == (None, None, None)


def test_a_value_that_many_resamples_lack_has_no_interval(tmp_path):
    data = clicks()
    label = np.zeros(len(data["click"]))
    label[5] = 1
    found = judged(tmp_path / "one", data | {"label.click": label}).metrics(KEY)
    assert found["auc"]["value"] is not None
    assert found["auc"]["low"] is None
    assert found["logloss"]["low"] is not None
    none = judged(tmp_path / "none", data | {"label.click": np.zeros(len(label))}).metrics(KEY)
    assert none["auc"] == {"value": None, "low": None, "high": None, "se": None}


def test_resamples_draw_active_buckets_only():
    active = np.array([True, False, True, True])
    weights = resamples(active, 50, seed=1)
    assert weights.shape == (50, 4)
    assert (weights.sum(axis=1) == 3).all()
    assert (weights[:, 1] == 0).all()
    assert np.array_equal(weights, resamples(active, 50, seed=1))
    assert not np.array_equal(weights, resamples(active, 50, seed=2))
    sums = np.arange(8.0).reshape(4, 2)
    assert weighted(weights, sums) == pytest.approx(weights @ sums)


def test_estimates():
    replicates = np.linspace(0, 1, 1001)
    plain = estimate(0.4, replicates, 100)
    assert (plain.low, plain.high) == (pytest.approx(0.025), pytest.approx(0.975))
    mirrored = estimate(0.4, replicates, 100, mirrored=True, least=0.0)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(0.775))
    assert estimate(None, replicates, 100).low is None

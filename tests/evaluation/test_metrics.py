"""Each metric against its definition, written out slowly, and against libraries that share it."""

import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
)

from recsys.errors import UserError
from recsys.evaluation import metrics
from recsys.evaluation.metrics import METRICS, task_metrics

# Few distinct scores and few groups, so that ties and one-class groups are common.
ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0, math.nan]), st.sampled_from("abc")),
    max_size=25,
)


def rows_of(rows):
    p = np.array([score / 5 for score, _, _ in rows], np.float64)
    y = np.array([label for _, label, _ in rows], np.float64)
    return p, y, np.array([group for _, _, group in rows], object)


def slow_auc(p, y):
    pairs = [
        (a, b)
        for a, s in zip(p, y, strict=True)
        if s == 1
        for b, t in zip(p, y, strict=True)
        if t == 0
    ]
    if not pairs:
        return None
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def slow_gauc(p, y, group):
    total = weight = 0.0
    for value in set(group):
        rows = [i for i in range(len(p)) if group[i] == value and not math.isnan(y[i])]
        auc = slow_auc(p[rows], y[rows])
        if auc is not None:
            total += auc * len(rows)
            weight += len(rows)
    return total / weight if weight else None


def slow_calibration_error(p, y, bin_of):
    rows = [i for i in range(len(p)) if not math.isnan(y[i])]
    if not rows:
        return None
    gaps = 0.0
    for value in {bin_of[i] for i in rows}:
        inside = [i for i in rows if bin_of[i] == value]
        gaps += len(inside) * abs(np.mean(y[inside]) - np.mean(p[inside]))
    return gaps / len(rows)


def same(found, expected):
    if expected is None or found is None:
        return found is None and expected is None
    return found == pytest.approx(expected, abs=1e-12)


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_ranking_and_calibration_agree_with_their_definitions(rows):
    p, y, group = rows_of(rows)
    assert same(metrics.auc(p, y), slow_auc(p, y))
    assert same(metrics.gauc(p, y, group), slow_gauc(p, y, group))
    bins = [min(int(score * 100 / 5), 99) for score, _, _ in rows]
    assert same(metrics.ece(p, y), slow_calibration_error(p, y, bins))
    assert same(metrics.field_ece(p, y, group), slow_calibration_error(p, y, group))


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_no_slice_raises_warns_or_gives_nan(rows):
    p, y, group = rows_of(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = task_metrics(p, y, group)
    assert list(found) == ["rows", "positives", *METRICS]
    assert all(value is None or math.isfinite(value) for value in found.values())
    assert found["rows"] == np.count_nonzero(~np.isnan(y))
    assert found["positives"] == np.count_nonzero(y == 1)


@pytest.fixture(scope="module")
def sample():
    generator = np.random.default_rng(0)
    p = generator.random(5_000)
    return p, (generator.random(5_000) < p**2).astype(np.float64), generator.integers(0, 400, 5_000)


def test_agreement_with_scikit_learn_and_torchmetrics(sample):
    p, y, _ = sample
    tensors = torch.from_numpy(p), torch.from_numpy(y).long()
    found = task_metrics(p, y)
    assert found["auc"] == pytest.approx(binary_auroc(*tensors).item(), abs=1e-6)
    assert found["pr_auc"] == pytest.approx(binary_average_precision(*tensors).item(), abs=1e-6)
    assert found["ece"] == pytest.approx(binary_calibration_error(*tensors, n_bins=100).item())
    assert found["logloss"] == pytest.approx(sklearn.metrics.log_loss(y, p), rel=1e-12)
    constant = np.full_like(p, y.mean())
    assert found["ne"] == pytest.approx(
        sklearn.metrics.log_loss(y, p) / sklearn.metrics.log_loss(y, constant), rel=1e-12
    )
    assert found["pcoc"] == pytest.approx(p.sum() / y.sum(), rel=1e-12)


def test_ne_is_that_of_torchrec(sample):
    from torchrec.metrics.ne import compute_cross_entropy, compute_ne

    p, y, _ = map(torch.from_numpy, sample)
    loss = compute_cross_entropy(y, p, torch.ones_like(p), 1e-12).sum()
    expected = compute_ne(loss, torch.tensor(len(y)), y.sum(), len(y) - y.sum(), 1e-12)
    assert metrics.normalized_entropy(p.numpy(), y.numpy()) == pytest.approx(expected.item())


def test_gauc_is_that_of_torchrec_where_groups_are_alike_in_size(sample):
    """Equal sizes make weighted and unweighted mean equal; continuous scores have no ties."""
    from torchrec.metrics.gauc import compute_gauc_3d

    p, y, _ = sample
    group = np.repeat(np.arange(250), 20)
    shaped = [torch.from_numpy(a).reshape(1, 250, 20) for a in (p, y, np.ones_like(p))]
    sums = compute_gauc_3d(*shaped)
    expected = (sums["auc_sum"] / sums["num_samples"]).item()
    assert metrics.gauc(p, y, group) == pytest.approx(expected, rel=1e-9)


def test_gauc_weighs_by_impressions():
    # Group a: 4 impressions, AUC 1. Group b: 2 impressions, AUC 0. Group c: one class.
    p = np.array([0.9, 0.8, 0.2, 0.1, 0.1, 0.9, 0.5])
    y = np.array([1, 1, 0, 0, 1, 0, 1.0])
    assert metrics.gauc(p, y, list("aaaabbc")) == pytest.approx(4 / 6)


def test_rows_without_a_group_are_left_out_of_gauc_only():
    p, y = np.array([0.9, 0.1, 0.1, 0.9]), np.array([1.0, 0, 1, 0])
    found = task_metrics(p, y, pa.array(["a", "a", None, None]))
    assert (found["gauc"], found["auc"], found["rows"]) == (1.0, 0.5, 4)
    assert task_metrics(p, y, pa.nulls(4))["gauc"] is None
    assert task_metrics(p, y)["gauc"] is None


def test_one_class():
    p = np.array([0.2, 0.4])
    positives, negatives = task_metrics(p, np.ones(2), [1, 1]), task_metrics(p, np.zeros(2), [1, 1])
    for found in (positives, negatives):
        assert [found[m] for m in ("auc", "gauc", "pr_auc", "ne")] == [None] * 4
    assert positives["pcoc"] == pytest.approx(0.3)
    assert negatives["pcoc"] is None
    assert negatives["logloss"] == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert negatives["ece"] == pytest.approx(0.3)


def test_no_rows():
    found = task_metrics(np.empty(0, np.float32), np.empty(0), np.empty(0, np.int64))
    assert found == {"rows": 0, "positives": 0} | dict.fromkeys(METRICS)


def test_unknown_labels_contribute_nothing(sample):
    p, y, group = sample
    hidden = np.arange(len(y)) % 3 == 0
    found = task_metrics(p, np.where(hidden, np.nan, y), group)
    assert found == pytest.approx(task_metrics(p[~hidden], y[~hidden], group[~hidden]))
    assert found == task_metrics(np.ma.array(p, mask=hidden), y, group)
    assert found["rows"] < task_metrics(p, y, group)["rows"]


def test_soft_labels_have_no_ranking_but_a_loss():
    p, y = np.array([0.5, 0.25]), np.array([0.5, 0.0])
    found = task_metrics(p, y, [1, 1])
    assert [found[m] for m in ("auc", "gauc", "pr_auc")] == [None] * 3
    assert found["logloss"] == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert (found["pcoc"], found["positives"]) == (pytest.approx(1.5), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_is_clipped_at_the_precision_of_the_probabilities(dtype):
    p, y = np.array([1.0, 0.0], dtype), np.array([0.0, 1.0])
    expected = -math.log(np.finfo(dtype).eps)
    assert metrics.logloss(p, y) == pytest.approx(expected, rel=1e-6)
    assert metrics.logloss(p, y) == pytest.approx(sklearn.metrics.log_loss(y, p), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.0001])
def test_what_is_not_a_probability_is_refused(value):
    p = np.array([0.5, 0.5, value, value])
    with pytest.raises(UserError, match=r"part\.parquet: column click, row 2: .*\(2 such rows\)"):
        task_metrics(p, np.ones(4), source="part.parquet: column click")
    # Also where the label is unknown: the model is broken either way.
    with pytest.raises(UserError, match="row 2: the probability is"):
        metrics.auc(p, np.full(4, np.nan))


def test_a_label_that_is_not_one_is_refused():
    with pytest.raises(UserError, match=r"row 1: the label is 3\.0 .*within 0 and 1"):
        metrics.logloss(np.array([0.5, 0.5]), np.array([1, 3]))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="both be"):
        metrics.auc(np.array([0.5]), np.array([1, 0]))


def test_codes_are_equal_where_values_are():
    chunks = pa.chunked_array([["x", None], ["y", "x"]])
    assert metrics.codes(chunks).tolist() == [0, -1, 1, 0]
    assert metrics.codes(np.array([7, -3, 7])).tolist() == [0, 1, 0]

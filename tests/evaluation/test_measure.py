"""Streamed sums against the plain metrics of `metrics.py`, which libraries agree with."""

import shutil

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from recsys.errors import UserError
from recsys.evaluation import parquet, rows
from recsys.evaluation.fields import field_ece
from recsys.evaluation.grouped import top_shares
from recsys.evaluation.measure import measure
from recsys.evaluation.metrics import METRICS, task_metrics
from recsys.evaluation.metrics import field_ece as plain_field_ece
from recsys.evaluation.predictions import PredictionsWriter, evaluate_predictions
from recsys.evaluation.ranking import RankedSlice
from recsys.evaluation.rows import PredictionRows
from recsys.evaluation.slices import by_day, by_surface, segments


def sample(count=4_000, seed=0, users=200):
    """Requests of 1 to 6 candidates on three surfaces; scores with ties."""
    generator = np.random.default_rng(seed)
    request = np.sort(generator.integers(0, count // 3, count))
    user = generator.integers(0, users, count // 3)[request]
    p = np.round(generator.beta(1, 4, count), 3).astype(np.float32)
    label = (generator.random(count) < p).astype(np.float64)
    label[generator.random(count) < 0.1] = np.nan
    return {
        "request_id": [f"r{i}" for i in request],
        "candidate": np.arange(count) - np.searchsorted(request, request),
        "surface": np.array(["home", "search", "related"])[request % 3],
        "time": 86_400_000 * (request % 5) + 1_000,
        "group": user,
        "click": p,
        "logit.click": np.log(p.clip(1e-6) / (1 - p)) + 0.5,
        "label.click": label,
        "age": generator.integers(18, 90, count),
        "score": generator.normal(size=count),
        "country": np.array(["fr", "de", None])[user % 3].tolist(),
    }


def write(folder, data):
    with PredictionsWriter(folder, rows_a_row_group=500, rows_a_file=1500) as writer:
        writer.append(data)
    return folder


def flat(report, path=""):
    """The numbers of a report, by their paths."""
    if not isinstance(report, dict):
        return {path: report} if isinstance(report, int | float) else {}
    return {k: v for name, each in report.items() for k, v in flat(each, f"{path}/{name}").items()}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    data = sample()
    return data, write(tmp_path_factory.mktemp("predictions") / "test", data)


def test_agreement_with_scikit_learn_and_torchmetrics(table):
    data, folder = table
    known = ~np.isnan(data["label.click"])
    p, y = data["click"][known], data["label.click"][known]
    found = evaluate_predictions(folder)["all"]["tasks"]["click"]
    tensors = torch.from_numpy(p), torch.from_numpy(y).long()
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, p), rel=1e-12)
    assert found["pr_auc"] == pytest.approx(sklearn.metrics.average_precision_score(y, p))
    assert found["logloss"] == pytest.approx(sklearn.metrics.log_loss(y, p), rel=1e-6)
    assert found["auc"] == pytest.approx(binary_auroc(*tensors).item(), abs=1e-6)
    assert found["pr_auc"] == pytest.approx(binary_average_precision(*tensors).item(), abs=1e-6)


@pytest.mark.parametrize("batch", [1, 7, 100_000])
def test_batches_of_any_size_give_the_same(table, monkeypatch, batch):
    """Ties, users and requests go on over batches."""
    data, folder = table
    small = {name: values[:300] for name, values in data.items()}
    folder = write(folder.parent / f"small-{batch}", small)
    monkeypatch.setattr(rows, "ROWS_A_BATCH", batch)
    options = {"top": (1, 3), "segments": ["country"]}
    found = flat(evaluate_predictions(folder, **options))
    monkeypatch.undo()
    assert found == pytest.approx(flat(evaluate_predictions(folder, **options)), rel=1e-12)


def test_weighted_rows(table, tmp_path):
    data, _ = table
    weight = np.where(data["label.click"] == 0, 4.0, 1.0)
    folder = write(tmp_path / "test", data | {"weight.click": weight})
    report = evaluate_predictions(folder)
    for surface, found in report["surfaces"].items():
        own = data["surface"] == surface
        expected = task_metrics(
            *(data[name][own] for name in ("click", "label.click", "group")), weight[own]
        )
        assert found["tasks"]["click"] == pytest.approx(expected, rel=1e-6)
    assert report["all"]["tasks"]["click"] == pytest.approx(
        task_metrics(data["click"], data["label.click"], data["group"], weight), rel=1e-6
    )
    # The logit of a log without three of four negatives is too high by log 4.
    odds = data["click"].astype(np.float64).clip(1e-6)
    odds = odds / (1 - odds)
    logits = np.log(odds * 4)
    folder = write(tmp_path / "raw", data | {"weight.click": weight, "logit.click": logits})
    with PredictionRows(folder) as opened:
        [raw] = measure(opened, buckets=1).slices["all", "all", "click"].moments[:, 6]
    known = ~np.isnan(data["label.click"])
    assert raw == pytest.approx((weight * data["click"].clip(1e-6))[known].sum(), rel=1e-5)


@pytest.mark.parametrize("weighted", ["home", "related", "search"])
def test_a_file_without_weights_weighs_1(table, tmp_path, weighted):
    """Of a folder with a file a surface, of which one log was down-sampled."""
    data, _ = table
    own = data["surface"] == weighted
    weight = np.where(own & (data["label.click"] == 0), 4.0, 1.0)
    whole = {name: np.array(values) for name, values in data.items()} | {"weight.click": weight}
    folder = tmp_path / "folder"
    folder.mkdir()
    for surface in ("home", "related", "search"):
        rows = {name: values[data["surface"] == surface] for name, values in whole.items()}
        if surface != weighted:
            del rows["weight.click"]
        file = write(tmp_path / surface, rows) / "part-00000.parquet"
        shutil.copy(file, folder / f"{surface}.parquet")
    expected = flat(evaluate_predictions(write(tmp_path / "whole", whole), segments=["age"]))
    assert flat(evaluate_predictions(folder, segments=["age"])) == pytest.approx(
        expected, rel=1e-12
    )


def test_logits_of_some_rows_are_none(table, tmp_path):
    data, _ = table
    some = np.ma.array(data["logit.click"], mask=np.arange(len(data["click"])) % 9 == 0)
    with PredictionRows(write(tmp_path / "some", data | {"logit.click": some})) as opened:
        assert opened.raw("click") is None
        assert field_ece(opened, "click", "age", raw=True) is None


@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, np.nan])
def test_a_weight_that_is_none_is_refused(table, tmp_path, monkeypatch, weight):
    monkeypatch.setattr(parquet, "ROWS_A_BATCH", 10)
    data, _ = table
    weights = np.ones(len(data["click"]))
    weights[1512] = weight
    folder = write(tmp_path / "test", data | {"weight.click": weights})
    with pytest.raises(UserError, match=r"part-00001\.parquet: column weight\.click, row 12: the"):
        evaluate_predictions(folder)


def test_hit_is_the_share_of_positives_in_the_top_k(table):
    data, folder = table
    hits, positives = np.zeros(3), 0.0
    request, p = np.array(data["request_id"]), data["click"]
    y = np.nan_to_num(data["label.click"])
    for i in np.flatnonzero(y):
        same = request == request[i]
        above, tied = (p[same] > p[i]).sum(), (p[same] == p[i]).sum()
        hits += np.clip(np.array([1, 2, 5]) - above, 0, tied) / tied
        positives += 1
    found = evaluate_predictions(folder, top=(1, 2, 5))["all"]["tasks"]["click"]
    assert [found[f"hit@{k}"] for k in (1, 2, 5)] == pytest.approx(hits / positives)
    assert 0.3 < found["hit@1"] < found["hit@2"] < found["hit@5"]


def test_tied_candidates_share_their_places():
    request = np.array([1, 1, 1, 2, 2], np.uint64)
    shares = top_shares(request, np.array([0.5, 0.5, 0.9, 0.1, np.nan]), (1, 2))
    assert shares.tolist() == [[0, 0.5], [0, 0.5], [1, 1], [1, 1], [0, 0]]


def test_field_ece_of_any_column(table):
    data, folder = table
    p, y = data["click"], data["label.click"]
    with PredictionRows(folder) as opened:
        for column in ("country", "age", "surface"):
            expected = plain_field_ece(p, y, data[column])
            assert field_ece(opened, "click", column) == pytest.approx(expected, rel=1e-6)
        raw = 1 / (1 + np.exp(-data["logit.click"]))
        expected = plain_field_ece(raw, y, data["country"])
        assert field_ece(opened, "click", "country", raw=True) == pytest.approx(expected, rel=1e-5)
    found = evaluate_predictions(folder, fields=["age"])["field_ece"]
    assert found == {"age": {"click": pytest.approx(plain_field_ece(p, y, data["age"]), rel=1e-6)}}
    with pytest.raises(UserError, match=r"--field ages: .*no such column; did you mean age\?"):
        evaluate_predictions(folder, fields=["ages"])


def test_segments_are_slices_of_the_rows(table):
    data, folder = table
    found = evaluate_predictions(folder, segments=["country", "age", "score"])["segments"]
    assert list(found["country"]) == ["de", "fr", "unknown"]
    ages = data["age"]
    bounds = {"10–19": (10, 19), "20–49": (20, 49), "50–89": (50, 89)}
    assert {a for a in found["age"] if found["age"][a]["tasks"]["click"]["rows"]} == set(bounds)
    slices = {("country", "unknown"): np.array([c is None for c in data["country"]])}
    slices |= {("age", a): (ages >= low) & (ages <= high) for a, (low, high) in bounds.items()}
    for (column, label), own in slices.items():
        expected = task_metrics(*(data[n][own] for n in ("click", "label.click", "group")))
        assert found[column][label]["tasks"]["click"] == pytest.approx(expected, rel=1e-6)
    quintiles = [each["tasks"]["click"]["rows"] for each in found["score"].values()]
    assert len(quintiles) == 5
    assert max(quintiles) < 1.1 * min(quintiles)
    with pytest.raises(UserError, match=r"--segment countr: .*did you mean country\?"):
        evaluate_predictions(folder, segments=["countr"])


@pytest.mark.parametrize("count", [4, 40])
def test_no_number_is_unknown(table, tmp_path, count):
    data, _ = table
    values = np.arange(len(data["click"])) % float(count)
    values[:3] = np.nan, np.inf, -np.inf
    known = data | {"label.click": np.zeros(len(values)), "odd": values}
    found = evaluate_predictions(write(tmp_path / "test", known), segments=["odd"])["segments"]
    labels = {4: ["0.0", "1.0", "2.0", "3.0"], 40: ["0", "1–4", "5–9", "10–19", "20–39"]}
    assert list(found["odd"]) == [*labels[count], "unknown"]
    assert found["odd"]["unknown"]["tasks"]["click"]["rows"] == 3


def test_a_segment_of_other_types_in_another_file_or_table(table, tmp_path):
    """Numbers there and text here: values of text."""
    data, _ = table
    text = [f"{age}+" for age in data["age"]]
    numbers, words = (
        write(tmp_path / name, data | {"age": ages})
        for name, ages in (("numbers", data["age"]), ("words", text))
    )
    with PredictionRows(numbers) as one, PredictionRows(words) as other:
        for tables in ([one, other], [other, one]):
            assert segments(tables, "age").labels[-1] == "other"
    folder = tmp_path / "both"
    folder.mkdir()
    half = np.array(data["surface"]) == "home"
    for at, (ages, own) in enumerate(((data["age"], half), (text, ~half))):
        part = {n: np.array(v)[own] for n, v in (data | {"age": ages}).items()}
        shutil.copy(
            write(tmp_path / f"{at}", part) / "part-00000.parquet", folder / f"{at}.parquet"
        )
    assert "other" in evaluate_predictions(folder, segments=["age"])["segments"]["age"]
    named = write(tmp_path / "named", data | {"history_length": np.full(len(text), "long")})
    found = evaluate_predictions(named, segments=["history_length"])["segments"]
    assert list(found["history_length"]) == ["long"]


def test_times_that_are_none_have_no_days(table, tmp_path):
    data, _ = table
    microseconds = data["time"] + 1_700_000_000_000_000
    with PredictionRows(write(tmp_path / "test", data | {"time": microseconds})) as opened:
        assert by_day([opened]) is None


def test_a_segment_named_twice_counts_rows_once(table):
    _, folder = table
    once = evaluate_predictions(folder, segments=["country"])
    assert evaluate_predictions(folder, segments=["country", "country"]) == once
    with PredictionRows(folder) as opened, pytest.raises(AssertionError, match="no slicing twice"):
        measure(opened, [by_surface(opened)])


@pytest.mark.parametrize("name", ["all", "surface", "surface day"])
def test_a_segment_cannot_have_the_name_of_another_slicing(table, name):
    _, folder = table
    with pytest.raises(UserError, match=rf"--segment {name} \(evaluation\.segments\): is always"):
        evaluate_predictions(folder, segments=[name])


def test_days_are_surface_by_date(table):
    data, folder = table
    with PredictionRows(folder) as opened:
        days = by_day([opened])
        moments = measure(opened, days=days, buckets=8).days["click"].sum(axis=1)
    assert days.labels[:2] == ("home 1970-01-01", "home 1970-01-02")
    assert len(days.labels) == 15
    day = data["time"] // 86_400_000
    own = (data["surface"] == "related") & (day == 3) & ~np.isnan(data["label.click"])
    [row] = moments[[days.labels.index("related 1970-01-04")]]
    assert row[0] == own.sum() > 0
    assert row[4] == pytest.approx(data["click"][own].sum(), rel=1e-6)


def test_sums_do_not_depend_on_the_buckets(table):
    _, folder = table
    with PredictionRows(folder) as opened:
        many, one = (measure(opened, buckets=b).slices["all", "all", "click"] for b in (64, 1))
    assert 60 <= many.units <= 64
    assert many.metrics() == pytest.approx(one.metrics(), rel=1e-9)


@pytest.mark.parametrize("scores", ["tied", "continuous"])
def test_ranking_from_sorted_pieces(scores):
    generator = np.random.default_rng(1)
    p = np.sort(generator.random(2_000))
    p = np.round(p, 1) if scores == "tied" else p
    y = generator.random(2_000) < p
    ranked = RankedSlice(len(y), float(y.sum()), float((~y).sum()), quantiles=20)
    for part in np.array_split(np.arange(2_000), 37):
        ranked.add(p[part], y[part], np.ones(len(part)))
    auc, pr_auc = ranked.result()
    assert auc == pytest.approx(sklearn.metrics.roc_auc_score(y, p), rel=1e-12)
    assert pr_auc == pytest.approx(sklearn.metrics.average_precision_score(y, p), rel=1e-12)
    quantiles = np.concatenate(ranked.quantiles)
    assert len(quantiles) >= 18
    assert quantiles[-1] >= p[-20]


def test_one_class_and_no_rows(tmp_path, table):
    data, _ = table
    label = np.where(data["surface"] == "home", 0.0, data["label.click"])
    report = evaluate_predictions(
        write(tmp_path / "test", data | {"label.click": label}),
        surfaces=["home", "search", "feed"],
        top=(1,),
    )
    home = report["surfaces"]["home"]["tasks"]["click"]
    assert [home[n] for n in ("auc", "gauc", "pr_auc", "ne", "pcoc", "hit@1")] == [None] * 6
    assert home["logloss"] > 0
    nothing = {"rows": 0, "positives": 0} | dict.fromkeys([*METRICS, "hit@1"])
    assert report["surfaces"]["feed"]["tasks"]["click"] == nothing

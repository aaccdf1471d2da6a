"""The page and its figures, from predictions alone and from runs."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from recsys.errors import UserError
from recsys.evaluation.predictions import evaluate_predictions
from recsys.report.report import PARTS, report
from tests.report.tables import predictions, write

OF_RUNS = {"Learning curves", "Experts", "Gradient conflict", "Effective weight", "Data"}


class Page(HTMLParser):
    """What a browser would fetch, the headings, and whether every tag is closed."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.fetched, self.ids, self.open, self.drawings = [], [], [], 0
        self.headings, self._heading = [], False
        self.feed(text)
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.drawings += tag == "svg"
        self._heading = tag == "h2"
        for name in ("src", "href", "xlink:href"):
            if name in found and not found[name].startswith("#"):
                self.fetched.append(found[name])
        if tag in ("script", "iframe", "object", "link"):
            self.fetched.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data):
        if self._heading:
            self.headings.append(data)
            self._heading = False


def page_of(document):
    with open(document["out"], encoding="utf-8") as file:
        text = file.read()
    assert not re.search(r"url\((?!#)|@import", text)
    page = Page(text)
    assert page.fetched == []
    return page


def values(found):
    """Metric → value, of a cell with intervals."""
    return {k: v["value"] if isinstance(v, dict) else v for k, v in found.items()}


@pytest.fixture(scope="module")
def compared(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "report.html"
    return report(tables, out, predictions=True, fields=["age"], segments=["age"], count=300)


@pytest.fixture(scope="module")
def of_run(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(trained.path, path)
    return path, report([path], count=200)


def test_two_tables(compared, tables):
    page = page_of(compared)
    assert set(page.headings) == set(PARTS) - OF_RUNS
    assert page.drawings > 15
    assert json.loads(json.dumps(compared, allow_nan=False)) == compared
    good, worse = compared["systems"]
    assert [each["kind"] for each in (good, worse)] == ["predictions"] * 2
    assert "what needs a run is left out" in good["notes"][0]
    expected = evaluate_predictions(tables[0], top=(1, 5, 10), segments=["age"])
    for surface, found in expected["surfaces"].items():
        own = good["surfaces"][surface]
        assert own["requests"] == found["requests"]
        assert own["tasks"].keys() == found["tasks"].keys()
        for task, cell in found["tasks"].items():
            shown = values(own["tasks"][task])
            assert {name: shown[name] for name in cell} == pytest.approx(cell)
    for label, found in expected["segments"]["age"].items():
        shown = values(good["segments"]["age"][label]["tasks"]["click"])
        assert shown["auc"] == pytest.approx(found["tasks"]["click"]["auc"])


def test_the_worse_system_is_worse_for_sure(compared):
    [found] = compared["differences"]
    assert (found["system"], compared["baseline"]) == ("worse", "good")
    click = found["all"]["tasks"]["click"]
    assert click["auc"]["high"] < 0 < click["ne"]["low"]
    assert list(found["surfaces"]) == ["home", "search"]
    # Of two constant scores there is nothing to tell apart.
    assert found["all"]["tasks"]["like"]["auc"]["value"] == 0.0


def test_before_and_after_calibration(compared):
    shape = compared["systems"][0]["shapes"]["home"]["click"]
    assert shape["calibrated"]
    points = shape["reliability"]
    assert 10 <= len(points) <= 15
    assert sum(point["rows"] for point in points) == pytest.approx(
        compared["systems"][0]["surfaces"]["home"]["tasks"]["click"]["rows"]
    )
    predicted = [point["predicted"] for point in points]
    assert predicted == sorted(predicted)
    for point in points:  # the scores are the truth, and the raw ones are 1.5 z + 0.3
        logit = 1.5 * np.log(point["predicted"] / (1 - point["predicted"])) + 0.3
        assert point["before"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.03)
        assert point["low"] <= point["observed"] <= point["high"]
    inside = [p["low"] <= p["predicted"] <= p["high"] for p in points]
    assert np.mean(inside) > 0.7
    cell = compared["systems"][0]["surfaces"]["home"]["tasks"]["click"]
    assert cell["ece_raw"]["value"] > cell["ece"]["value"]
    scores = shape["scores"]
    assert sum(scores["positives"]) == pytest.approx(1)
    assert np.dot(scores["logit"], scores["positives"]) > np.dot(
        scores["logit"], scores["negatives"]
    )


def test_days_add_up(compared):
    days = compared["systems"][0]["days"]
    lines = days["home"]["click"]
    assert [line["day"] for line in lines] == [f"2023-11-{day}" for day in (14, 15, 16, 17)]
    cell = compared["systems"][0]["surfaces"]["home"]["tasks"]["click"]
    assert sum(line["rows"] for line in lines) == cell["rows"]
    assert all(line["pcoc"]["low"] < line["pcoc"]["high"] for line in lines)


def test_one_run_makes_its_predictions_and_lies_in_the_run(of_run):
    path, document = of_run
    assert document["out"] == str(path / "report.html")
    assert (path / "predictions" / "test").is_dir()
    page = page_of(document)
    assert set(PARTS) - {"Differences", "By day"} <= set(page.headings)
    [system] = document["systems"]
    assert system["kind"] == "run"
    assert set(system["segments"]) == {"known_group", "history_length"}
    run = system["run"]
    shares = np.array([list(each.values()) for each in run["weights"].values()])
    assert shares.sum(axis=0) == pytest.approx([1, 1, 1])
    assert document["split"] == "test"


def test_a_run_against_other_predictions(of_run, tmp_path):
    path, _ = of_run
    table = tmp_path / "lightgbm"
    shutil.copytree(path / "predictions" / "test", table)
    document = report([path, table], tmp_path / "out.html", count=100)
    assert [each["kind"] for each in document["systems"]] == ["run", "predictions"]
    cells = [
        each
        for tasks in document["differences"][0]["surfaces"].values()
        for each in tasks["tasks"].values()
    ]
    assert {cell["logloss"]["value"] for cell in cells} == {0.0}
    assert "run" in page_of(document).headings or set(page_of(document).headings) >= OF_RUNS


def test_without_logits_there_is_no_before(tmp_path):
    data = {k: v for k, v in predictions().items() if not k.startswith("logit")}
    document = report([write(tmp_path / "plain", data)], tmp_path / "out.html", count=100)
    [system] = document["systems"]
    assert any("no calibration to compare with: no column logit" in n for n in system["notes"])
    assert "ece_raw" not in system["surfaces"]["home"]["tasks"]["click"]


def test_a_difference_is_of_surfaces_that_both_predict(tmp_path):
    wider = predictions(noise=1.0)
    wider["like"] = wider["like"].data
    paths = [write(tmp_path / "one", predictions()), write(tmp_path / "wider", wider)]
    document = report(paths, tmp_path / "out.html", segments=["age"], count=100)
    [found] = document["differences"]
    assert found["notes"] == [f"{paths[0]} has no like of search: not compared"]
    assert set(found["all"]["tasks"]) == {"click"}
    assert {task for each in found["segments"]["age"].values() for task in each["tasks"]} == {
        "click"
    }
    assert set(found["surfaces"]["home"]["tasks"]) == {"click", "like"}
    assert set(found["surfaces"]["search"]["tasks"]) == {"click"}
    page_of(document)


def test_one_class_and_unknown_slices_are_null(tmp_path):
    data = predictions()
    data["label.click"] = np.where(data["surface"] == "search", 0.0, data["label.click"])
    data["label.like"] = np.full(len(data["click"]), np.nan)
    document = report([write(tmp_path / "one", data)], tmp_path / "out.html", count=100)
    [system] = document["systems"]
    cell = system["surfaces"]["search"]["tasks"]["click"]
    assert cell["positives"] == 0
    assert {cell[n]["value"] for n in ("auc", "gauc", "pr_auc", "ne", "pcoc")} == {None}
    assert cell["logloss"]["value"] > 0
    like = system["surfaces"]["home"]["tasks"]["like"]
    assert (like["rows"], like["logloss"]["value"], like["ece"]["value"]) == (0, None, None)
    page_of(document)


def test_names_of_users_and_surfaces_are_text(tmp_path):
    data = predictions()
    data["surface"] = np.where(data["surface"] == "home", "<b>'home' & \"co\"</b>", "sear$ch_{")
    names = {name: write(tmp_path / name, data) for name in ("a & <i>", "$x$ <s>")}
    document = report(list(names.values()), tmp_path / "out.html", segments=["age"], count=100)
    page_of(document)
    with open(document["out"], encoding="utf-8") as file:
        text = file.read()
    assert not {tag for tag in ("<b>'home'", "<i>", "<s>") if tag in text}


def test_wrong_input(tables, tmp_path):
    out = tmp_path / "out.html"
    with pytest.raises(UserError, match="gone: no such predictions table"):
        report([tmp_path / "gone"], out)
    with pytest.raises(UserError, match="given twice"):
        report([tables[0], tables[0]], out)
    with pytest.raises(UserError, match="--resamples 10: give at least 100"):
        report(tables, out, count=10)
    with pytest.raises(UserError, match="--split tset"):
        report(tables, out, split="tset")
    with pytest.raises(UserError, match="--hit-at 0"):
        report(tables, out, top=[0])
    with pytest.raises(UserError, match=r"--segment agee: .*did you mean age\?"):
        report(tables, out, segments=["agee"])
    with pytest.raises(UserError, match=r"--segment surface .*: is always reported"):
        report(tables, out, segments=["surface"])
    with pytest.raises(UserError, match="--field surface: is always reported"):
        report(tables[:1], out, fields=["surface"])
    with pytest.raises(UserError, match="nothing to report on"):
        report([], out)
    assert not out.exists()


def test_where_nothing_can_be_written_is_said_before_anything_is_measured(
    tables, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("recsys.report.report.open_systems", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        report(tables, tmp_path)
    with pytest.raises(UserError, match=r"out\.html: .*file cannot be made \(.*another place"):
        report(tables, tmp_path / "file" / "out.html")


def test_a_memory_limit_that_is_none_leaves_nothing_behind(tables, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="--memory-limit lots: write it like 4GB"):
        report(tables, tmp_path / "out.html", memory="lots")
    assert list(tmp_path.iterdir()) == []


def test_nan_scores_and_missing_columns_are_named(tmp_path):
    data = predictions()
    data["click"] = data["click"].copy()
    data["click"][17] = np.nan
    with pytest.raises(UserError, match=r"part-00000\.parquet: column click, row 17: the prob"):
        report([write(tmp_path / "nan", data)], tmp_path / "out.html")
    data = predictions()
    data["logit.click"] = data["logit.click"].copy()
    data["logit.click"][23] = np.nan
    named = r"part-00000\.parquet: column logit\.click, row 23: is NaN; write the logit before"
    with pytest.raises(UserError, match=named):
        report([write(tmp_path / "logit", data)], tmp_path / "out.html")
    data = {k: v for k, v in predictions().items() if k != "like"}
    with pytest.raises(UserError, match="column like is missing"):
        report([write(tmp_path / "missing", data)], tmp_path / "out.html")


def test_a_run_that_cannot_be_looked_into_says_so(of_run, tmp_path):
    path, document = of_run
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    (copy / "metrics.jsonl").unlink()
    shutil.rmtree(copy / "checkpoints")
    found = report([copy], count=100)
    [system] = found["systems"]
    notes = " ".join(system["notes"])
    assert "metrics.jsonl is missing" in notes
    assert "no experts and no gradients" in notes
    assert "no complete checkpoint" in notes
    assert values(system["all"]["tasks"]["click"]) == pytest.approx(
        values(document["systems"][0]["all"]["tasks"]["click"])
    )
    assert not {"Learning curves", "Experts", "Gradient conflict"} & set(page_of(found).headings)


def test_surfaces_without_rows(of_run, tmp_path, monkeypatch):
    """A run whose predictions are of one surface alone."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path, _ = of_run
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    [file] = (copy / "predictions" / "test").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.filter(pc.equal(table["surface"], "home")), file)
    document = report([copy], count=100)
    cell = document["systems"][0]["surfaces"]["search"]["tasks"]["click"]
    assert cell["rows"] == 0
    assert cell["auc"]["value"] is None
    page_of(document)

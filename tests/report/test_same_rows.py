"""A paired comparison needs the same rows; where they differ, the first one is named."""

import shutil

import numpy as np
import pytest

from recsys.errors import UserError
from recsys.evaluation.rows import PredictionRows
from recsys.report.same_rows import common_rows
from tests.report.tables import predictions, write


@pytest.fixture
def compare(tmp_path):
    one = write(tmp_path / "one", predictions())

    def compare(data):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        other = write(tmp_path / "other", data)
        with PredictionRows(one) as first, PredictionRows(other) as second:
            return common_rows(first, second)

    return compare


def test_other_scores_in_another_order_are_the_same_rows(compare):
    data = predictions(noise=1.0)
    order = np.random.default_rng(0).permutation(len(data["click"]))
    found = compare({name: values[order] for name, values in data.items()})
    assert found.surfaces == ["home", "search"]
    assert found.tasks == ["click", "like"]
    assert found.pooled == ["click", "like"]
    assert found.notes == []


def test_types_of_ids_do_not_matter(compare):
    data = predictions()
    data["request_id"] = [str(i) for i in data["request_id"]]
    assert compare(data).pooled == ["click", "like"]


def test_missing_rows(compare):
    data = {name: values[7:] for name, values in predictions().items()}
    message = r"one: surface home: \d rows are not in .*other, for example request_id \d+, cand"
    with pytest.raises(UserError, match=message):
        compare(data)


def test_mismatched_rows(compare):
    data = predictions()
    data["candidate"] = data["candidate"] + (data["request_id"] == 12)
    with pytest.raises(UserError, match=r"other: .* rows are not in .*one, for example request_id"):
        compare(data)


@pytest.mark.parametrize(
    ("column", "named"), [("label.click", r"label\.click"), ("group", "group")]
)
def test_other_labels_and_groups(compare, column, named):
    data = predictions()
    data[column] = data[column].copy()
    data[column][5] = 1 - data[column][5]
    with pytest.raises(UserError, match=rf"other: column {named}, surface .*: differs from .*in 1"):
        compare(data)


def test_rows_without_a_prediction(compare):
    """Their difference would be one of the rows: those that are hard may be left out."""
    data = predictions()
    data["click"] = np.ma.array(data["click"], mask=np.arange(len(data["click"])) % 5 == 0)
    message = (
        r"other: column click, surface home: null in \d+ rows that .*one has a probability of,"
    )
    with pytest.raises(UserError, match=message):
        compare(data)
    # Of a row without a label there is nothing to compare.
    data["label.click"] = np.where(data["click"].mask, np.nan, data["label.click"])
    with pytest.raises(UserError, match=r"other: column label\.click, surface home: differs"):
        compare(data)


def test_other_weights(compare, tmp_path):
    data = predictions()
    weight = np.where(data["label.click"] == 0, 1 / 0.3, 1.0)
    with pytest.raises(
        UserError, match=r"one: has no column weight\.click, .* in .*other, for exa"
    ):
        compare(data | {"weight.click": weight})
    shutil.rmtree(tmp_path / "one")
    write(tmp_path / "one", data | {"weight.click": weight.astype(np.float32)})
    assert compare(data | {"weight.click": weight}).pooled == ["click", "like"]
    with pytest.raises(
        UserError, match=r"other: has no column weight\.click, .*write that table's"
    ):
        compare(data)
    weight[17] = 2.0
    message = (
        r"other: column weight\.click, .* differs from .* in 1 rows, .* which weighs 2 here; wr"
    )
    with pytest.raises(UserError, match=message):
        compare(data | {"weight.click": weight})


def test_a_task_that_one_alone_predicts_on_a_surface_is_not_compared_there(compare, tmp_path):
    data = predictions()
    data["like"] = np.ma.getdata(data["like"])
    found = compare(data)
    assert (found.surfaces, found.tasks, found.pooled) == (
        ["home", "search"], ["click", "like"], ["click"]
    )  # fmt: skip
    assert found.notes == [f"{tmp_path / 'one'} has no like of search: not compared"]


def test_a_surface_and_a_task_of_one_alone_are_left_out_with_a_word(compare):
    data = {k: v for k, v in predictions().items() if not k.endswith("like")}
    home = data["surface"] == "home"
    found = compare({name: values[home] for name, values in data.items()})
    assert (found.surfaces, found.tasks, found.pooled) == (["home"], ["click"], [])
    assert [note.split("only ")[1].split()[2:] for note in found.notes] == [
        ["search:", "not", "compared"],
        ["like:", "not", "compared"],
    ]


def test_nothing_in_common(compare):
    data = predictions()
    with pytest.raises(UserError, match=r"other: has the surfaces feed, .*none in common"):
        compare(data | {"surface": np.full(len(data["click"]), "feed")})
    names = {"click": "buy", "label.click": "label.buy"}
    other = {names.get(k, k): v for k, v in data.items() if "like" not in k and "logit" not in k}
    with pytest.raises(UserError, match=r"other: has the tasks buy, .*none in common"):
        compare(other)


def test_without_positions_rows_cannot_be_matched(compare, tmp_path):
    import pyarrow.parquet as pq

    folder = write(tmp_path / "bare", predictions())
    file = folder / "part-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns("candidate"), file)
    with (
        PredictionRows(folder) as one,
        PredictionRows(tmp_path / "one") as other,
        pytest.raises(UserError, match=r"part-00000\.parquet: column candidate is missing"),
    ):
        common_rows(one, other)

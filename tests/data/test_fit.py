"""Vocabularies and number statistics, against plain code."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recsys.data.fit as fitting
from recsys.config import parse_config
from recsys.data.fit import IdCounter, NumberFitter, fit
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from tests.data import tables


def test_vocabularies_equal_plain_counting(tmp_path: Path) -> None:
    rows = tables.rows(90, seed=8)
    tables.write(tmp_path / "train", rows, (50, 9), (40, 40))
    config = tables.config(tmp_path)
    found = fit(config).vocabularies
    want = tables.vocabularies(config, rows)
    assert {name: known.ids.to_pylist() for name, known in found.items()} == want
    assert set(want) == {"city", "code", "sparse"}
    assert len(want["city"]) == 3  # of five


def test_numbers_equal_plain_statistics(tmp_path: Path) -> None:
    rows = tables.rows(90, seed=8)
    tables.write(tmp_path / "train", rows, (50, 9), (40, 40))
    found = fit(tables.config(tmp_path)).numbers
    # Numbers under `none` need nothing.
    assert list(found) == ["request.age", "candidate.price", "history.hours"]
    prices = [c["price"] for r in rows for c in r["candidates"] or [] if c]
    prices = np.array([price for price in prices if price is not None], dtype=float)
    price = found["candidate.price"]
    assert price.mean == pytest.approx(prices.mean(), rel=1e-12)
    assert price.std == pytest.approx(prices.std(), rel=1e-12)
    np.testing.assert_allclose(price.quantiles, np.quantile(prices, np.arange(1, 256) / 256))
    # Events that are cut off are not read, so they do not count.
    hours = [e["hours"] for r in rows for e in (r["history"] or [])[-4:] if e]
    hours = np.array([hour for hour in hours if hour is not None], dtype=np.float32)
    assert found["history.hours"].mean == pytest.approx(hours.astype(float).mean(), rel=1e-9)


def test_saved_and_loaded(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", tables.rows(60))
    statistics = fit(tables.config(tmp_path))
    folder = tmp_path / "run" / "statistics"
    for _ in range(2):  # over an older one too
        statistics.save(folder)
        loaded = Statistics.load(folder)
        assert loaded.numbers == statistics.numbers
        assert {k: v.ids for k, v in loaded.vocabularies.items()} == {
            k: v.ids for k, v in statistics.vocabularies.items()
        }
    assert {path.name for path in folder.iterdir()} == {
        "numbers.json",
        "vocabulary.city.parquet",
        "vocabulary.code.parquet",
        "vocabulary.sparse.parquet",
    }
    (folder / "vocabulary.code.parquet").unlink()
    with pytest.raises(UserError, match=r"vocabulary\.code\.parquet: missing; train the run again"):
        Statistics.load(folder)
    (folder / "numbers.json").write_text("{")
    with pytest.raises(UserError, match=r"statistics: broken \(.*\); train the run again"):
        Statistics.load(folder)


def test_nothing_is_read_if_nothing_is_fitted(tmp_path: Path) -> None:
    config = parse_config(
        {
            "name": "plain",
            "data": {"root": str(tmp_path / "missing")},
            "tables": {"item": {"rows": 9, "dim": 4}},
            "features": {"candidate": {"item": {"id": "item"}, "age": {"number": "none"}}},
            "surfaces": {"search": {"tasks": ["click"]}},
        },
        "test",
    )
    assert fit(config) == Statistics()


def test_values_that_are_not_numbers_are_told(tmp_path: Path) -> None:
    rows = tables.rows(5)
    rows[0]["surface"] = "nowhere"
    tables.write(tmp_path / "train", rows)
    with pytest.raises(UserError, match=r"row group 0: column surface: 'nowhere' is not a surface"):
        fit(tables.config(tmp_path))


@given(st.lists(st.lists(st.none() | st.sampled_from("abcdef")), max_size=6), st.integers(1, 4))
def test_counter(parts: list[list[str | None]], rows: int) -> None:
    counter = IdCounter(rows)
    for part in parts:
        counter.add(pa.array(part, pa.string()))
        counter.add(pa.array(part, pa.string()).dictionary_encode())
    counter.add(pa.array([], pa.string()))
    flat = [each for part in parts for each in part if each is not None]
    order = sorted(set(flat), key=lambda each: (-flat.count(each), each))
    want = [each for each in order if 2 * flat.count(each) >= 3][:rows]
    assert counter.vocabulary(3).ids.to_pylist() == want


def test_counter_forgets_the_rarest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "SPARE_IDS", 10)
    monkeypatch.setattr(fitting, "MERGE_AT", 20)
    counter = IdCounter(2)
    for start in range(0, 1000, 10):
        counter.add(pa.array([7, 7, 8, *range(start + 100, start + 110)]))
        assert sum(map(len, counter._counts)) < 60
    assert counter.vocabulary(1).ids.to_pylist() == [7, 8]


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=20), max_size=6))
def test_moments_are_merged_exactly(parts: list[list[float]]) -> None:
    fitter = NumberFitter()
    for part in parts:
        fitter.add(pa.array([None, *part], pa.float64()))
    found = fitter.statistics()
    flat = np.array([each for part in parts for each in part])
    if not len(flat):
        assert (found.mean, found.std, set(found.quantiles)) == (0.0, 1.0, {0.0})
        return
    assert found.mean == pytest.approx(flat.mean(), rel=1e-9, abs=1e-6)
    assert found.std == pytest.approx(flat.std() or 1.0, rel=1e-6, abs=1e-6) or flat.std() < 1e-6
    np.testing.assert_allclose(found.quantiles, np.quantile(flat, np.arange(1, 256) / 256))


def test_sample_is_uniform_bounded_and_the_same_however_it_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "SAMPLE", 2000)
    values = np.arange(100_000, dtype=float)

    def quantiles(step: int) -> tuple[float, ...]:
        fitter = NumberFitter()
        for start in range(0, len(values), step):
            fitter.add(pa.array(values[start : start + step]))
            assert len(fitter._values) <= 2000
        return fitter.statistics().quantiles

    assert quantiles(100_000) == quantiles(997)
    exact = np.quantile(values, np.arange(1, 256) / 256)
    # Standard error of a quantile of 2000: at most 1.1 % of the range; four of these are allowed.
    assert np.abs(np.array(quantiles(5000)) - exact).max() < 4 * 0.0112 * 100_000

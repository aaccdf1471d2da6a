"""Every fault of a value is found, told with its place, and told how to mend."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import TableConfig
from recsys.data.check import check
from recsys.data.encoding import TableEncoder
from recsys.data.faults import Place
from recsys.data.fit import fit
from recsys.data.reader import Reader
from recsys.errors import UserError
from tests.data import tables

Rows = list[dict[str, Any]]


def clean(count: int = 6) -> Rows:
    """Requests of each surface with one event and one candidate, all values present."""
    rows = tables.rows(count)
    full = next(
        c for r in tables.rows(200, seed=9) for c in r["candidates"] or [] if c and all_present(c)
    )
    event = {"hours": 1.0, "item": 3, "city": "Ulm", "x": 1}
    for number, row in enumerate(rows):
        row |= {
            "surface": ["home", "search", "related"][number % 3],
            "seed": 1, "country": "de", "codes": [1], "query": 2, "terms": [3],
            "age": 30.0, "score": 0.5,
            "history": [dict(event)], "candidates": [dict(full)],
        }  # fmt: skip
    return rows


def all_present(candidate: dict[str, Any]) -> bool:
    return all(v is not None and v != [] for v in candidate.values())


def fault(tmp_path: Path, rows: Rows, **sections: Any) -> str:
    """The fault that the reader and `check` find: exactly one, the same."""
    tables.write(tmp_path / "train", rows, (2, 2), (len(rows) - 2, 2))
    config = tables.config(tmp_path, **sections)
    with pytest.raises(UserError) as error:
        list(Reader(config, "train", fit(config), shuffle=False, batch_candidates=2))
    faults = check(config, ["train"])["faults"]
    assert [each["message"] for each in faults] == [str(error.value)]
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{tmp_path}/train/")


def required(level: str, name: str, **feature: Any) -> dict[str, Any]:
    features = {**tables.DOCUMENT["features"]}
    features[level] = {**features[level], name: {**features[level][name], "required": True}}
    return {"features": features}


def candidate(row: dict[str, Any], **values: Any) -> None:
    row["candidates"][0] |= values


def event(row: dict[str, Any], **values: Any) -> None:
    row["history"][0] |= values


CASES: list[tuple[str, Callable[[dict], Any], str]] = [
    (
        "surface null",
        lambda row: row.update(surface=None),
        "column surface: null is not a surface; write one of the surfaces of the configuration",
    ),
    (
        "surface unknown",
        lambda row: row.update(surface="Home"),
        "column surface: 'Home' is not a surface of the configuration; "
        "use one of home, search, related, or declare it under `surfaces`",
    ),
    (
        "id too large",
        lambda row: candidate(row, item_id=40),
        "column candidates.item_id: 40 is beyond the table: tables.item.rows is 40; "
        "raise it, or set tables.item.encode: hash",
    ),
    (
        "id negative",
        lambda row: event(row, item=-1),
        "column history.item: -1 is beyond the table: tables.item.rows is 40; "
        "raise it, or set tables.item.encode: hash",
    ),
    (
        "id in a list",
        lambda row: candidate(row, tags=[5, None, 300]),
        "column candidates.tags: 300 is beyond the table: tables.tag.rows is 300; "
        "raise it, or set tables.tag.encode: hash",
    ),
    (
        "id of the request",
        lambda row: row.update(seed=2**62),
        f"column seed: {2**62} is beyond the table: tables.item.rows is 40; "
        "raise it, or set tables.item.encode: hash",
    ),
    (
        "NaN",
        lambda row: row.update(age=float("nan")),
        "column age: nan is not a finite number; write null where the number is unknown",
    ),
    (
        "infinity in the history",
        lambda row: event(row, hours=float("inf")),
        "column history.hours: inf is not a finite number; write null where the number is unknown",
    ),
    (
        "beyond float32",
        lambda row: row.update(age=-1e300),
        "column age: -1e+300 is beyond float32; scale the column down",
    ),
    (
        "label above 1",
        lambda row: candidate(row, click=2),
        "column candidates.click: 2 is not a label; "
        "write a label between 0 and 1, or null where it is unknown",
    ),
    (
        "label below 0",
        lambda row: candidate(row, like=-0.5),
        "column candidates.like: -0.5 is not a label; "
        "write a label between 0 and 1, or null where it is unknown",
    ),
    (
        "label NaN",
        lambda row: candidate(row, like=float("nan")),
        "column candidates.like: nan is not a label; "
        "write a label between 0 and 1, or null where it is unknown",
    ),
]


@pytest.mark.parametrize(("change", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("nulls", [False, True])
def test_fault(tmp_path: Path, change: Callable[[dict], Any], message: str, nulls: bool) -> None:
    rows = clean()
    if nulls:  # another path where the column has nulls
        candidate(rows[4], item_id=None, tags=[None], click=None, like=None)
        event(rows[4], item=None, hours=None)
        rows[4] |= {"seed": None, "age": None}
    change(rows[5])
    assert fault(tmp_path, rows) == f"part-001.parquet: row group 1: {message}"


@pytest.mark.parametrize(
    ("level", "name", "column"),
    [
        ("request", "seed", "seed"),
        ("request", "age", "age"),
        ("candidate", "city", "candidates.city"),
        ("candidate", "price", "candidates.price"),
    ],
)
def test_null_of_a_required_feature(tmp_path: Path, level: str, name: str, column: str) -> None:
    rows = clean()
    for row in rows[4:]:
        (row if level == "request" else row["candidates"][0])[name] = None
    assert fault(tmp_path, rows, **required(level, name)) == (
        f"part-001.parquet: row group 1: column {column}: null but the feature is required; "
        "write a value, or remove `required` from the feature"
    )
    assert check(tables.config(tmp_path, **required(level, name)), ["train"])["faults"][0][
        "count"
    ] == 2  # fmt: skip


@pytest.mark.parametrize(("level", "name"), [("request", "query"), ("candidate", "match")])
def test_a_feature_is_required_on_its_surfaces_only(tmp_path: Path, level: str, name: str) -> None:
    rows = clean()

    def owner(row: dict[str, Any]) -> dict[str, Any]:
        return row if level == "request" else row["candidates"][0]

    for row in rows:
        if row["surface"] != "search":
            owner(row)[name] = None
    tables.write(tmp_path / "train", rows)
    config = tables.config(tmp_path, **required(level, name))
    assert len(list(Reader(config, "train", fit(config), batch_candidates=100))) == 1
    owner(rows[4])[name] = None  # of search
    assert "null but the feature is required" in fault(tmp_path, rows, **required(level, name))


def test_values_on_surfaces_without_the_feature_are_ignored(tmp_path: Path) -> None:
    rows = clean()
    for row in rows:
        if row["surface"] != "search":
            row |= {"query": 10**9, "terms": [10**9], "score": float("nan")}
            candidate(row, match=float("inf"))
    tables.write(tmp_path / "train", rows)
    config = tables.config(tmp_path)
    (batch,) = Reader(config, "train", fit(config), batch_candidates=100)
    assert batch.sparse["request_bags"]["request.query"].values().tolist() == [0, 0, 3, 3, 0, 0]
    assert batch.sparse["request_bags"]["request.terms"].lengths().tolist() == [0, 0, 1, 1, 0, 0]
    assert batch.candidate_numbers[:, 1].isnan().tolist() == [True, True, False, False, True, True]


def test_values_of_events_that_are_cut_off_do_not_matter(tmp_path: Path) -> None:
    rows = clean()
    rows[0]["history"] = [{"item": 10**6}] + rows[0]["history"] * 4
    tables.write(tmp_path / "train", rows)
    config = tables.config(tmp_path)
    assert len(list(Reader(config, "train", fit(config), batch_candidates=100))) == 1


def test_garbage_under_a_null_is_no_value() -> None:
    values = pa.array([-7, 1, 1, 1, 1, 1]).buffers()[1]
    seed = pa.Array.from_buffers(pa.int64(), 6, [pa.py_buffer(b"\x3e"), values])
    assert seed.null_count == 1
    out = np.empty(6, np.uint8)
    TableEncoder("item", TableConfig(rows=40, dim=4), None).encode(seed, out, "seed", Place("f", 0))
    assert out.tolist() == [0, 2, 2, 2, 2, 2]


def test_check_finds_every_fault(tmp_path: Path) -> None:
    rows = clean(9)
    rows[0]["surface"] = "nowhere"
    rows[3]["age"] = float("inf")
    candidate(rows[4], item_id=99, click=7)
    candidate(rows[5], item_id=77)
    rows[7]["request_id"] = rows[1]["request_id"]
    rows[8]["request_id"] = None
    tables.write(tmp_path / "train", rows, (9, 3))
    tables.write(tmp_path / "valid", clean())
    result = check(tables.config(tmp_path))
    faults = [
        (f["split"], f["row_group"], f["column"], f["value"], f["count"]) for f in result["faults"]
    ]
    assert faults == [
        ("train", 0, "surface", "nowhere", 1),
        ("train", 1, "candidates.item_id", 99, 2),
        ("train", 1, "age", "inf", 1),
        ("train", 1, "candidates.click", 7, 1),
        ("train", 2, "request_id", None, 1),
        ("train", 2, "request_id", "r1", 1),
        ("test", None, None, None, None),
    ]
    assert re.search(r"data\.test: .*/test: no such folder", result["faults"][-1]["message"])
    assert list(result["splits"]) == ["train", "valid"]


def test_a_broken_page_names_the_file(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", clean(50))
    config = tables.config(tmp_path)
    statistics = fit(config)
    path = tmp_path / "train" / "part-000.parquet"
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(4).data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"part-000\.parquet: not readable as Parquet \("):
        list(Reader(config, "train", statistics, batch_candidates=9))

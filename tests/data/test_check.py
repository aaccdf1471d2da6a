"""What `recsys data check` counts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recsys.data import show
from recsys.data.check import check
from tests.data import tables


def test_counts_equal_plain_counting(tmp_path: Path) -> None:
    rows = tables.rows(80, seed=5)
    tables.write(tmp_path / "train", rows, (50, 9), (30, 30))
    config = tables.config(tmp_path)
    result = check(config, ["train"])
    assert result["faults"] == []
    found = result["splits"]["train"]
    want = tables.expected(config, rows, tables.vocabularies(config, rows))
    assert found["requests"] == 80
    assert found["candidates"] == sum(want["candidate_lengths"])
    assert found["events"] == sum(want["history_lengths"])
    for number, surface in enumerate(("home", "search", "related")):
        counts = found["surfaces"][surface]
        assert counts["requests"] == want["request_surface_index"].count(number)
        assert counts["candidates"] == want["surface_index"].count(number)
        for task, index in (("click", 0), ("like", 1), ("buy", 2)):
            if task not in config.surfaces[surface].tasks:
                assert task not in counts["tasks"]
                continue
            labels = [
                row[index]
                for row, at in zip(want["labels"], want["surface_index"], strict=True)
                if at == number and not math.isnan(row[index])
            ]
            assert counts["tasks"][task]["known"] == len(labels)
            assert math.isclose(counts["tasks"][task]["positives"], sum(labels), rel_tol=1e-6)
    seeds = [row["seed"] for row in rows]
    known = [seed for seed in seeds if seed is not None]
    assert found["features"]["seed"] == {
        "values": 80, "nulls": seeds.count(None), "min": min(known), "max": max(known),
    }  # fmt: skip
    searches = [row["query"] for row in rows if row["surface"] == "search"]
    assert found["features"]["query"]["values"] == len(searches)
    assert found["features"]["query"]["nulls"] == searches.count(None)
    assert found["features"]["country"]["min"] is None
    json.dumps(result, allow_nan=False)


def printed(result: dict[str, Any]) -> str:
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    show.print_check(result, console)
    return console.export_text()


def test_prints_counts_and_faults(tmp_path: Path) -> None:
    rows = tables.rows(30)
    tables.write(tmp_path / "train", rows)
    rows[3]["age"] = math.nan
    tables.write(tmp_path / "valid", rows)
    result = check(tables.config(tmp_path), ["train", "valid"])
    text = printed(result)
    assert "related" in text and "candidates.item_id" in text
    assert "column age: nan is not a finite number" in text
    assert "No fault" not in text
    assert json.dumps(result, allow_nan=False)


def test_many_columns_are_listed_where_they_have_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.write(tmp_path / "train", tables.rows(30))
    result = check(tables.config(tmp_path), ["train"])
    features = result["splits"]["train"]["features"]
    nulls = {name for name, found in features.items() if found["nulls"]}
    assert nulls and len(nulls) < len(features)
    text = printed(result)
    assert all(name in text for name in features)
    monkeypatch.setattr(show, "MOST_COLUMNS", 3)
    lines = printed(result).splitlines()
    listed = {line.split("│")[1].strip() for line in lines if line.count("│") == 5}
    assert listed == nulls
    assert f"{len(features) - len(nulls)} columns without nulls" in lines[-2]

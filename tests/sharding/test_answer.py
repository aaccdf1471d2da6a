"""`recsys plan` as a user meets it: tables, JSON, HTML, files, errors."""

import json
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from recsys.config import load_config
from recsys.errors import UserError
from recsys.sharding.answer import answer
from recsys.sharding.document import read_plan
from recsys.sharding.show import print_report, show_ranks
from recsys.sharding.units import show_bytes, show_count, show_ms
from tests.model.requests import random_config


def shown(report) -> str:
    file = StringIO()
    print_report(report, Console(file=file))
    return file.getvalue()


def test_a_report_for_people_names_every_table_and_rank() -> None:
    config = random_config(0)
    report = answer(config, ["1x2xcpu"])
    text = shown(report)
    for table in config.tables:
        assert f"\n {table} " in text
    for words in (
        "random0 on 1x2xcpu: 2 ranks, 2 a host; 128 GiB DDR a host",
        "Lengths: sharding.assumed, not measured",
        "Estimated step: ",
        "Fullest: DDR of rank ",
        "Imbalance, largest ÷ mean over ranks: time ",
    ):
        assert words in text
    assert "HBM" not in text
    assert "…" not in text  # nothing is cut off where the width is not a terminal's


def test_of_many_ranks_the_slowest_are_shown() -> None:
    text = shown(answer(random_config(0), ["4x8xH100"]))
    assert "the 16 slowest of 32 ranks; --json has all" in text


def test_several_topologies_are_compared() -> None:
    report = answer(random_config(0), ["1x2xH100", "1x4xH100"])
    assert report["topology"]["label"] == "1x2xH100"
    assert [line["topology"] for line in report["what_if"]] == ["1x2xH100", "1x4xH100"]
    assert "What if" in shown(report)


def test_the_page_has_a_bar_for_every_rank_and_fetches_nothing(tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    report = answer(random_config(0), ["1x4xH100"], html=page, out=tmp_path / "plan.json")
    text = page.read_text(encoding="utf-8")
    assert "http" not in text
    assert "<script" not in text
    drawings = text.split("<svg")[1:]
    assert len(drawings) == 3  # HBM, DDR, time
    for drawing in drawings:
        svg = ElementTree.fromstring("<svg" + drawing.split("</svg>")[0] + "</svg>")
        bars = [each for each in svg if each.tag == "rect" and len(each)]
        assert len(bars) == 2 * 4
        assert all(float(bar.attrib["width"]) >= 0 for bar in bars)
    for table in report["tables"]:
        assert table in text
    assert read_plan(tmp_path / "plan.json").dump() == report["plan"]


def test_a_page_of_what_does_not_fit(tmp_path: Path) -> None:
    config = load_config("configs/ten_billion_rows.yaml", ["sharding.reserve=0.9"])
    page, out = tmp_path / "plan.html", tmp_path / "plan.json"
    report = answer(config, ["1x1xV100"], html=page, out=out)
    assert not report["fits"]
    assert "Does not fit." in page.read_text(encoding="utf-8")
    assert "Nothing that was tried fits" in shown(report)
    assert not out.exists()
    json.dumps(report, allow_nan=False)


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        answer(random_config(0), ["1x2xcpu"], out=tmp_path / "file" / "plan.json")


def test_numbers_for_people() -> None:
    sizes = (0, 900, 1024, 1234567, 85 * 2**30, 3 * 2**40, 1023 * 2**20)
    assert [show_bytes(size) for size in sizes] == [
        "0 B", "900 B", "1 KiB", "1.18 MiB", "85 GiB", "3.00 TiB", "1023 MiB",
    ]  # fmt: skip
    assert [show_count(n) for n in (7, 999, 57_400, 2e9)] == ["7", "999", "57.4 k", "2 G"]
    assert [show_ms(t) for t in (0, 0.00123, 0.5, 1234.5)] == [
        "0 ms",
        "1.23 µs",
        "0.5 ms",
        "1234 ms",
    ]
    assert [show_ranks(r) for r in ([3], [0, 1, 2], [0, 2], [0, 2, 4, 6, 8])] == [
        "3", "0–2", "0, 2", "5 ranks",
    ]  # fmt: skip

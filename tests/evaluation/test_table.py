"""What `recsys evaluate` prints."""

import io

import pytest
from rich.console import Console

from recsys.evaluation.metrics import METRICS
from recsys.evaluation.table import metrics_table, print_metrics


def values(rows, value):
    return {"rows": rows, "positives": rows // 2} | dict.fromkeys(METRICS, value)


REPORT = {
    "split": "test",
    "surfaces": {
        "home": {
            "requests": 1_234_567,
            "candidates": 9_876_543,
            "tasks": {"click": values(9_000_000, 0.74164), "like": values(12, 0.99996)},
        },
        "search": {"requests": 0, "candidates": 0, "tasks": {"click": values(0, None)}},
    },
    "all": {"tasks": {"click": values(9_000_001, 0.5), "like": values(13, 0.25)}},
}


def printed(report, width):
    stream = io.StringIO()
    print_metrics(report, Console(file=stream, width=width))
    return stream.getvalue()


def test_a_line_each_surface_and_task_then_all():
    lines = [line.split() for line in printed(REPORT, 200).splitlines()]
    assert lines[0] == ["test", "split"]
    assert lines[1][:4] == ["surface", "task", "rows", "positives"]
    assert lines[2] == ["home", "click", "9,000,000", "4,500,000", *["0.7416"] * 7]
    assert lines[3] == ["like", "12", "6", *["1.0000"] * 7]
    assert lines[4] == ["search", "click", "0", "0", *["–"] * 7]
    assert lines[5] == ["all", "click", "9,000,001", "4,500,000", *["0.5000"] * 7]
    assert lines[6][0] == "like"
    assert lines[7] == ["home:", "1,234,567", "requests,", "9,876,543", "candidates"]


@pytest.mark.parametrize("width", [20, 80])
def test_a_narrow_console_shortens_nothing(width):
    text = printed(REPORT, width)
    assert "…" not in text
    assert text.count("0.7416") == 7
    assert "9,000,000 4,500,000" in text


def test_a_heading_each_metric():
    headings = [str(column.header) for column in metrics_table(REPORT).columns]
    assert headings[4:] == ["AUC", "GAUC", "PR-AUC", "log loss", "NE", "PCOC", "ECE"]


def test_no_split_no_title():
    assert metrics_table({**REPORT, "split": None}).title is None

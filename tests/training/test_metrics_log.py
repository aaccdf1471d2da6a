"""metrics.jsonl, TensorBoard and the progress bar."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recsys.training import metrics_log
from recsys.training.metrics_log import MetricsLog, ProgressBar


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_log(folder: Path, **more: object) -> MetricsLog:
    return MetricsLog(folder / "metrics.jsonl", folder / "board", active=True, **more)  # type: ignore[arg-type]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder / "board"))
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_each_record_is_a_line_and_scalars(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write("train", 5, {"loss": 0.5, "cells": {"home": {"click": 0.25}}, "gradient_norm": None})
    log.write("valid", 5, {"epoch": 1})
    log.close()
    first, second = lines(tmp_path / "metrics.jsonl")
    assert first.pop("time") > 1e9
    assert first == {
        "event": "train",
        "step": 5,
        "loss": 0.5,
        "cells": {"home": {"click": 0.25}},
        "gradient_norm": None,
    }
    assert (second["event"], second["epoch"]) == ("valid", 1)
    assert scalars(tmp_path) == {
        "train/loss": [(5, 0.5)],
        "train/cells/home/click": [(5, 0.25)],
        "valid/epoch": [(5, 1.0)],
    }


def test_a_log_goes_on_and_loses_what_the_run_lost(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": float(step)})
    log.close()
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"event": "tra')
    log = open_log(tmp_path, after=2)
    log.write("train", 3, {"loss": 30.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in lines(file)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_what_json_lacks_is_null(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write("train", 1, {"gradient_norm": float("inf"), "cells": {"a": {"b": float("nan")}}})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"gradient_norm": null' in line
    assert '"b": null' in line


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "board", active=False)
    log.write("train", 1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_log, "LINE_SECONDS", 0.0)
    with ProgressBar("epoch 1/2", 100, active=True) as bar:
        bar.advance(25)
        bar.show(50.0, 0.1234567)
    out, err = capsys.readouterr()
    assert out == ""  # stdout is for --json
    assert err == "epoch 1/2: 25%, 50 candidates/s, loss 0.1235, 2 s left\n"
    monkeypatch.setattr(metrics_log, "LINE_SECONDS", 60.0)
    with ProgressBar("epoch 1/2", 100, active=True) as bar:
        bar.show(50.0, 0.1)
    with ProgressBar("epoch 1/2", 0, active=False) as bar:
        bar.advance(1)
        bar.show(1.0, 1.0)
    assert capsys.readouterr() == ("", "")

"""Log lines say rank and step."""

import logging
import subprocess
import sys

import pytest

from recsys.logs import JobFormatter, prefix, steps_in_logs


def line(level: int, message: str) -> str:
    return JobFormatter().format(logging.LogRecord("recsys", level, "f", 1, message, None, None))


def test_a_process_alone_says_nothing_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert line(logging.INFO, "hello") == "hello"
    with steps_in_logs(lambda: 7):
        assert line(logging.INFO, "hello") == "[step 7] hello"
    assert prefix() == ""


def test_a_rank_says_which_and_in_which_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    step = 3
    with steps_in_logs(lambda: step):
        assert line(logging.INFO, "hello") == "[rank 1/2, step 3] hello"
        step = 4
        assert line(logging.WARNING, "oh") == "[rank 1/2, step 4] warning: oh"
    assert line(logging.ERROR, "oh") == "[rank 1/2] error: oh"


def test_recsys_is_heard_from_info_and_others_from_error() -> None:
    """In a process of its own: logging is global."""
    code = """
import logging
from recsys.logs import set_up_logging
set_up_logging()
for name in ("recsys.x", "other", "torch.x", "torchrec.x"):
    logging.getLogger(name).debug("debug of %s", name)
    logging.getLogger(name).info("info of %s", name)
    logging.getLogger(name).error("error of %s", name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "info of recsys.x",
        *(f"error: error of {name}" for name in ("recsys.x", "other", "torch.x", "torchrec.x")),
    ]

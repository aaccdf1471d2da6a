"""Files appear whole or not at all: they are written beside their final name and renamed."""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds.

    The temporary file is removed if the block fails, so a reader sees the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers apart; the dot hides the file from dataset discovery.
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Like `whole_file`, for a folder. `path` must not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def step_aside(path: Path) -> None:
    """Renames a folder, which no other one can be renamed over, for a new one; then `put_back`."""
    os.rename(path, path.with_name(f".{path.name}.{os.getpid()}.old"))


def put_back(path: Path) -> None:
    """Ends a `step_aside`, also of a process that was killed: the new folder stays if it came."""
    for older in path.parent.glob(f".{glob.escape(path.name)}.*.old"):
        if path.exists():
            shutil.rmtree(older, ignore_errors=True)
        else:
            os.rename(older, path)


def check_out(path: Path) -> None:
    """Raises `UserError` where no file can be written at `path`: for before what takes long."""
    fault = "is a folder; name a file in it" if path.is_dir() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            fault = f"{path.parent} cannot be written to; choose another place"
    except OSError as error:
        fault = f"{path.parent} cannot be made ({error.strerror}); choose another place"
    if fault:
        raise UserError(f"{path}: {fault}")


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")

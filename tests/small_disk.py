"""A file system of a size that a test chooses."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, kibibytes: int) -> None:
        options = f"remount,size={kibibytes}k"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True)


def mounted(path: Path) -> Iterator[SmallDisk]:
    """Mounts one of 256 MiB at `path`, or skips the test; unmounts it at the end."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "none", str(path)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", str(path)], check=True)

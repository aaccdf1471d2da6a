"""A fault and the command that mends it."""

import shlex
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one line, and a command for a shell that mends it."""

    what: str
    fix: str


def pip(*arguments: str) -> str:
    """A pip command of the interpreter that runs this, whatever is on the PATH."""
    return shlex.join([sys.executable or "python", "-m", "pip", *arguments])

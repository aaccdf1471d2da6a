"""One of several jobs that do a surface each: `python -m recsys.surface_job … -- COMMAND`.

Runs the command, and writes how it ended beside how the others did. The last one shows a table of
all. On Slurm every one waits for the others, because TorchX starts them by one
`srun --kill-on-bad-exit=1 --wait=60`: who fails would end the others, and so would who is a minute
ahead of them.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from recsys.files import write_json
from recsys.processes import reason

POLL_SECONDS = 0.5
LINES_KEPT = 200  # of stderr, to tell why a command failed
RANK = re.compile(r"^\[\w+\]:")  # torchrun's --tee puts it before every line of a rank


@dataclass(frozen=True)
class Outcome:
    """How the job of one surface ended."""

    surface: str
    exit_code: int
    seconds: float
    error: str = ""


class Outcomes:
    """What became of each of `surfaces`, in a folder of the run, which all jobs see.

    Args:
        run: directory that exists.
        job: name of the job. Once Slurm has requeued it, it begins a folder of its own.
        surfaces: that belong together.
    """

    def __init__(self, run: Path, job: str, surfaces: list[str]) -> None:
        attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
        self.folder = run / "surface_jobs" / job / f"attempt-{attempt}"
        self.surfaces = surfaces

    def write(self, outcome: Outcome) -> None:
        write_json(self._file(outcome.surface), asdict(outcome))

    @property
    def complete(self) -> bool:
        return all(self._file(surface).is_file() for surface in self.surfaces)

    def read(self) -> list[Outcome]:
        """All of them, once they are complete, in the order of the surfaces."""
        texts = [self._file(surface).read_text(encoding="utf-8") for surface in self.surfaces]
        return [Outcome(**json.loads(text)) for text in texts]

    def first_to_show(self) -> bool:
        """Whether the table is this process's to show: true for one of those that ask."""
        with suppress(FileExistsError):
            (self.folder / "shown").touch(exist_ok=False)
            return True
        return False

    def _file(self, surface: str) -> Path:
        # By number: a segment's name may be no name of a file.
        return self.folder / f"{self.surfaces.index(surface)}.json"


def run(command: list[str]) -> tuple[int, str]:
    """Runs a command with this process's streams and signals; its exit code and the last of stderr.

    A scheduler may signal this process alone.
    """
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:

        def forward(number: int, _: FrameType | None) -> None:
            process.send_signal(number)

        before = {each: signal.signal(each, forward) for each in (signal.SIGTERM, signal.SIGINT)}
        kept: deque[str] = deque(maxlen=LINES_KEPT)
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            kept.append(RANK.sub("", line))
    for each, handler in before.items():
        signal.signal(each, handler)
    return process.returncode, "".join(kept)


def print_outcomes(outcomes: list[Outcome], console: Console) -> None:
    table = Table("surface", "outcome", "seconds", "why")
    for each in outcomes:
        ended = "done" if not each.exit_code else f"failed ({each.exit_code})"
        table.add_row(each.surface, ended, f"{each.seconds:.0f}", each.error)
    console.print(table)
    done = sum(not each.exit_code for each in outcomes)
    console.print(f"{done} of {len(outcomes)} surfaces are done", highlight=False)


def main() -> None:
    """Parses the command line; the exit code is the command's."""
    parser = argparse.ArgumentParser(prog="recsys.surface_job", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="directory that all jobs see")
    parser.add_argument("--job", required=True, help="name of the job, the same for all surfaces")
    parser.add_argument("--surface", required=True, help="of this process")
    parser.add_argument("--of", required=True, help="all surfaces: home,search")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args()

    start = time.monotonic()
    code, stderr = run(options.command)
    seconds = time.monotonic() - start
    if options.run.is_dir():  # or else every command says so
        outcomes = Outcomes(options.run, options.job, options.of.split(","))
        outcomes.write(Outcome(options.surface, code, seconds, reason(stderr) if code else ""))
        while "SLURM_JOB_ID" in os.environ and not outcomes.complete:
            time.sleep(POLL_SECONDS)
        if outcomes.complete and outcomes.first_to_show():
            print_outcomes(outcomes.read(), Console(stderr=True, width=120))
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()

"""The runs of a study: processes of `recsys train` and `recsys evaluate`, each done once."""

import json
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recsys.ablation.study import Study
from recsys.config import Config, load_config
from recsys.data.splits import open_split
from recsys.errors import RunError, UserError
from recsys.files import write_text
from recsys.processes import environment, python, reason
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.same_data import check_same_data
from recsys.training.start import FREE_KEYS, check_same

# Keys that change no result of a run: what it is called, how loud, how fast, what is kept of it.
WITHOUT_EFFECT = (
    "name",
    "data.prefetch_batches",
    "export",
    "training.checkpoint",
    "training.log_every_steps",
    "training.threads",
    "training.timeout_seconds",
)


@dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        config: the experiment's YAML file.
        overrides: of this run.
        folder: its run directory.
        ranks: how many train it.
        split: which is judged.
    """

    config: Path
    overrides: tuple[str, ...]
    folder: Path
    ranks: int
    split: str

    @property
    def result(self) -> Path:
        """Metrics as `recsys evaluate --json` printed them; there when the run is done."""
        return self.folder / f"{self.split}.json"

    @property
    def predictions(self) -> Path:
        """The predictions table of the split."""
        return self.folder / "predictions" / self.split

    def check_unchanged(self) -> None:
        """Raises `UserError` for what is no configuration, or another than the folder's run has.

        A run with a result must have read the same data, too.
        """
        run, now = RunDirectory(self.folder), load_config(self.config, self.overrides)
        if not run.config_file.is_file():
            return
        done = self.result.is_file()
        try:
            free = WITHOUT_EFFECT if done else FREE_KEYS
            check_same(run.config, now, run.config_file, free)
            if done:
                self._check_data(run, now)
        except UserError as error:
            difference = str(error).split(";", 1)[0]
            raise UserError(f"{difference}; give another --out, or remove that run") from None

    def _check_data(self, run: RunDirectory, now: Config) -> None:
        """By the counts of files and requests that the run's checkpoint has; it may be gone."""
        for state in checkpoint.steps(run.checkpoints)[-1:]:
            known = checkpoint.read_progress(state).data
            for name in tuple(known):
                check_same_data(known, name, open_split(now, name))

    def metrics(self) -> dict[str, Any]:
        """What `result` says."""
        found: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return found

    def finish(self) -> None:
        """Trains and evaluates what is not done; one that was interrupted goes on."""
        if self.result.is_file():
            return
        flags = [flag for each in self.overrides for flag in ("--set", each)]
        arguments = ["train", str(self.config), "--run", str(self.folder), "--resume", *flags]
        recsys([*arguments, "--json"], self.ranks)
        printed = recsys(["evaluate", str(self.folder), "--split", self.split, "--json"])
        write_text(self.result, printed)


def recsys(arguments: list[str], ranks: int = 1) -> str:
    """Runs `recsys …`, one thread a rank, and returns its stdout.

    Raises `RunError` with what it said was wrong.
    """
    done = subprocess.run(
        python("recsys.cli", *arguments, ranks=ranks),
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
        check=False,
    )
    if done.returncode:
        raise RunError(f"recsys {' '.join(arguments)}: {reason(done.stderr)}")
    return done.stdout


def runs_of(study: Study, config: Path, out: Path, split: str) -> dict[str, list[list[Run]]]:
    """Variant → for each seed, the runs that are judged together.

    Raises `UserError` for a variant that is no configuration, or whose folder holds a run of
    another one, before anything is trained.
    """
    found: dict[str, list[list[Run]]] = {}
    for name, variant in study.variants.items():
        found[name] = []
        shared = (*study.overrides, *variant.overrides)
        parts: dict[str, tuple[str, ...]] = {"": shared}
        if variant.each_surface:
            surfaces = load_config(config, shared).active_surfaces
            parts = {f"{s}-": (*shared, f"data.surfaces=[{s}]") for s in surfaces}
        for seed in study.seeds:
            runs = []
            for part, overrides in parts.items():
                folder = out / slug(name) / f"{part}seed{seed}"
                own = (*overrides, f"training.seed={seed}")
                runs.append(Run(config, own, folder, variant.ranks, split))
                runs[-1].check_unchanged()
            found[name].append(runs)
    return found


def finish_all(runs: Iterable[Run], workers: int) -> None:
    """Finishes runs, `workers` at a time; one that fails does not stop the others.

    Raises `RunError` at the end with what failed.
    """
    every = list(runs)
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        task = bar.add_task("runs", total=len(every))
        jobs = {pool.submit(run.finish): run for run in every}
        for job in as_completed(jobs):
            try:
                job.result()
            except RunError as error:
                failed.append(f"{jobs[job].folder}: {error}")
            bar.advance(task)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(every)} runs failed; the others are kept, and the same command "
            f"goes on: {failed[0]}"
        )


def slug(name: str) -> str:
    """A variant's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

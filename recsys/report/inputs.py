"""What a report is about: run directories and predictions tables of any other system."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recsys.errors import UserError
from recsys.evaluation.rows import MEMORY, PredictionRows
from recsys.run_directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass
class System:
    """One thing that is judged."""

    name: str
    path: Path
    run: RunDirectory | None
    rows: PredictionRows
    notes: list[str] = field(default_factory=list)  # what is left out, and why


def open_systems(
    paths: Sequence[Path],
    split: str = "test",
    *,
    predictions: bool = False,
    memory: str = MEMORY,
    step: Callable[[str], None] = lambda _: None,
) -> list[System]:
    """Opens run directories, and predictions tables where a path is none.

    A run that has no predictions of the split gets them now. With `predictions`, every path is
    taken for a table. Raises `UserError` for a path that is neither, and for faults in a table.
    """
    if not paths:
        raise UserError("nothing to report on: give run directories, or tables of predictions")
    runs = [None if predictions or not is_run(path) else RunDirectory.open(path) for path in paths]
    systems: list[System] = []
    try:
        for name, path, run in zip(names_of(paths), paths, runs, strict=True):
            if run is None:
                rows = PredictionRows(path, memory=memory)
                word = "a table of predictions: what needs a run is left out"
                systems.append(System(name, path, None, rows, [word]))
                continue
            folder, notes = run.predictions / split, []
            if not folder.is_dir():
                step(f"{name}: predictions")
                predict(run, split)
            elif _is_stale(run, folder):
                notes.append(
                    f"its {split} predictions are older than its best checkpoint; "
                    f"recsys evaluate {path} --split {split} makes new ones"
                )
            config = run.config
            rows = PredictionRows(folder, list(config.tasks), list(config.active_surfaces), memory)
            systems.append(System(name, path, run, rows, notes))
    except BaseException:
        for system in systems:
            system.rows.close()
        raise
    return systems


def is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def predict(run: RunDirectory, split: str) -> None:
    """Makes the predictions of a split."""
    from recsys.evaluation.score import evaluate

    log.info("%s: has no predictions of %s; making them", run.path, split)
    evaluate(run, split, show=False)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names that tell the paths apart: as many of the last parts as it takes."""
    whole = [path.resolve() for path in paths]
    parts = [(p.with_suffix("") if p.suffix == ".parquet" else p).parts for p in whole]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{paths[0]}: given twice; compare different runs or tables")


def _is_stale(run: RunDirectory, folder: Path) -> bool:
    best = run.checkpoints / "best.json"
    return best.is_file() and best.stat().st_mtime > folder.stat().st_mtime

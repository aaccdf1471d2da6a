"""What happens once before the first step: the run's folder, its statistics, what is resumed."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.config import Config, dump_config
from recsys.data.fit import fit
from recsys.data.layout import Layout
from recsys.data.schema import check_split, projection
from recsys.data.splits import open_split
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.files import write_text
from recsys.run_directory import RunDirectory
from recsys.sharding.document import check_plan, read_plan
from recsys.sharding.topology import ranks_per_node
from recsys.training.job import holds, take
from recsys.training.ranks import Ranks

# Keys that may differ from the checkpoint's on --resume: they change neither the model nor what it
# has learned so far, only how long, how loud, from which disk and on which ranks it goes on.
FREE_KEYS = (
    "name",
    "data.root",
    "data.prefetch_batches",
    "evaluation",
    "export",
    "training.epochs",
    "training.checkpoint",
    "training.early_stopping",
    "training.log_every_steps",
    "training.threads",
    "training.timeout_seconds",
    "sharding",
)


def prepare_run(
    config: Config, run: RunDirectory, resume: bool, ranks: Ranks, plan: Path | None = None
) -> bool:
    """Creates the run's folder, or checks that it may be resumed (collective).

    Returns whether to resume: because the user said so, or because this job began the run and was
    restarted. Raises `UserError` on every rank if the folder exists already, if the file of a
    sharding `plan` does not fit, or if a resumed run's
    configuration differs from the one it began with.
    """
    with ranks.after_first():
        if ranks.first:
            resume = resume or holds(run)
            if plan is not None:
                job = ranks.world, ranks_per_node(ranks.world), ranks.device.type
                check_plan(read_plan(plan), config, *job, str(plan))
            _prepare(config, run, resume)
    return bool(ranks.gather(resume)[0])


def _prepare(config: Config, run: RunDirectory, resume: bool) -> None:
    if run.config_file.is_file() and resume:
        check_same(run.config, config, run.config_file)
    elif run.path.exists() and not _is_free(run.path):
        raise UserError(
            f"{run.path}: exists already; give another --run, or go on with it by --resume"
        )
    _check_splits(config)
    try:
        take(run)
        write_text(run.config_file, dump_config(config))
    except OSError as error:
        raise UserError(f"{run.path}: cannot be written ({error.strerror})") from None


def _is_free(path: Path) -> bool:
    """Whether a folder is empty, but for a hidden file that a killed process left half-written."""
    return path.is_dir() and all(each.name.startswith(".") for each in path.iterdir())


def _check_splits(config: Config) -> None:
    """Looks at files and schemas before the run's folder appears; values are checked in reading."""
    layout = Layout(config)
    for name in ("train", "valid"):
        split = open_split(config, name)
        check_split(split, projection(layout, split, predictions=False, labels=True))


def check_same(old: Config, new: Config, where: Path, free: tuple[str, ...] = FREE_KEYS) -> None:
    """Raises `UserError` that names the first key that differs, other than those of `free`.

    Nor may the order of keys: weights belong to surfaces, tasks and features by their position.
    """
    before, after = (_bound_leaves(config, free) for config in (old, new))
    for key in [*before, *(key for key in after if key not in before)]:
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if was != now:
            raise UserError(
                f"{key}: is {now!r} here but {was!r} in {where}; --resume goes on with the same "
                "model and data. Put it back, or start a new --run"
            )
    for there, here in zip(before, after, strict=True):
        if there != here:
            raise UserError(
                f"{here}: stands where {where} has {there}; --resume needs the same order of keys. "
                "Put it back, or start a new --run"
            )


def _bound_leaves(config: Config, free: tuple[str, ...]) -> dict[str, Any]:
    """Key path → value of everything but what is `free` to change."""
    leaves = _leaves(config.model_dump(mode="json", by_alias=True))
    prefixes = tuple(f"{key}." for key in free)
    return {key: value for key, value in leaves if not f"{key}.".startswith(prefixes)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fit(config: Config) -> Statistics:
    """Fits the statistics; a warm start keeps the other run's of the numbers that it knew.

    Its weights were trained on numbers in that scale.
    """
    fitted = fit(config)
    if config.training.warm_start is None:
        return fitted
    before = Statistics.load(RunDirectory.open(config.training.warm_start).statistics).numbers
    numbers = {key: before.get(key, found) for key, found in fitted.numbers.items()}
    return Statistics(fitted.vocabularies, numbers)


def fitted_statistics(config: Config, run: RunDirectory, ranks: Ranks) -> Statistics:
    """The train split's statistics: fitted by the first rank, read by all (collective)."""
    # Half-written ones are of a process killed before the first step; once there are checkpoints,
    # they must stay what they were.
    begun = run.statistics.is_dir() and run.checkpoints.is_dir()
    with ranks.after_first():
        if ranks.first and not begun and not Statistics.is_whole(run.statistics):
            try:
                shutil.rmtree(run.statistics, ignore_errors=True)
                _fit(config).save(run.statistics)
            except UserError:
                shutil.rmtree(run.statistics, ignore_errors=True)
                raise
    return Statistics.load(run.statistics)

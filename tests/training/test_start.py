"""The comparison of configurations on --resume; whole runs are in test_resume."""

from pathlib import Path
from typing import Any

import pytest

from recsys.config import Config, parse_config
from recsys.errors import UserError
from recsys.run_directory import RunDirectory
from recsys.training.ranks import start_ranks
from recsys.training.start import check_same, fitted_statistics, prepare_run
from tests.config.documents import document

WHERE = Path("run/config.yaml")


def check(*changes: tuple[str, Any]) -> None:
    check_same(parse_config(document(), "c"), parse_config(document(*changes), "c"), WHERE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("data.root", "elsewhere"),
        ("data.prefetch_batches", 9),
        ("evaluation.group", "user_id"),
        ("training.epochs", 9),
        ("training.checkpoint.keep", 9),
        ("training.early_stopping.monitor", "ne"),
        ("training.threads", 3),
        ("sharding.constraints.video.types", ["table_wise"]),
    ],
)
def test_what_may_change(path: str, value: Any) -> None:
    check((path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.train", "other", "data.train: is 'other' here but 'train' in run/config.yaml; "),
        ("data.shuffle_row_groups", 3, "data.shuffle_row_groups: is 3 here but "),
        ("training.dense.clip_norm", None, "training.dense.clip_norm: is None here but 1.0 in "),
        ("model.sequence", None, "model.sequence.dim: is 'absent' here but 64 in "),
        ("tables.more", {"rows": 3, "dim": 4}, "tables.more.rows: is 3 here but 'absent' in "),
        (
            "surfaces.search.tower.modules.0.rank",
            5,
            "surfaces.search.tower.modules: is [{'class': 'low_rank_cross', ",
        ),
    ],
)
def test_what_may_not(path: str, value: Any, message: str) -> None:
    changes = [(path, value)]
    if path == "tables.more":
        changes.append(("features.candidate.more", {"id": "more"}))
    with pytest.raises(UserError) as caught:
        check(*changes)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(
        "--resume goes on with the same model and data. Put it back, or start a new --run"
    )


def test_a_folder_that_is_in_the_way(tmp_path: Path, small: Config) -> None:
    config = small
    (tmp_path / "notes.txt").write_text("mine")
    with start_ranks(60) as ranks:
        for resume in (False, True):
            with pytest.raises(UserError, match="exists already; give another --run"):
                prepare_run(config, RunDirectory(tmp_path), resume, ranks)
        empty = tmp_path / "empty"
        empty.mkdir()
        prepare_run(config, RunDirectory(empty), False, ranks)
        assert (empty / "config.yaml").is_file()
        blocked = tmp_path / "notes.txt" / "run"
        with pytest.raises(UserError, match=r"run: cannot be written \(Not a directory\)"):
            prepare_run(config, RunDirectory(blocked), False, ranks)


def test_what_a_killed_process_left_half_written(tmp_path: Path, small: Config) -> None:
    """The first files of a run: a restarted job must not stumble over them."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    (run.path / ".config.yaml.123.tmp").write_text("na")
    with start_ranks(60) as ranks:
        prepare_run(small, run, True, ranks)
        expected = fitted_statistics(small, run, ranks)
        (run.statistics / "numbers.json").unlink()  # is written last
        assert fitted_statistics(small, run, ranks).numbers == expected.numbers
        # Weights depend on statistics: those of a run with checkpoints are not fitted again.
        run.checkpoints.mkdir()
        (run.statistics / "numbers.json").unlink()
        with pytest.raises(UserError, match=r"numbers.json: missing; train the run again"):
            fitted_statistics(small, run, ranks)


def test_absent_data_leaves_no_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with start_ranks(60) as ranks, pytest.raises(UserError, match=r"data/small/train: no such"):
        prepare_run(parse_config(document(), "c"), run, False, ranks)
    assert not run.path.exists()

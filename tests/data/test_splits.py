"""Finding the files of a split."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import splits
from recsys.data.splits import open_split, open_table
from recsys.errors import UserError
from tests.data import tables


def test_files_in_the_order_of_their_names_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b", "a", "day=2/c", "_tmp/x", ".hidden", "_metadata"):
        path = tmp_path / "train" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(tables.rows(5), tables.SCHEMA), path, row_group_size=2)
    (tmp_path / "train" / "_SUCCESS").touch()
    (tmp_path / "train" / "notes.txt").write_text("no table")
    split = open_split(tables.config(tmp_path), "train")
    assert [Path(file).relative_to(tmp_path / "train").as_posix() for file in split.files] == [
        "a.parquet", "b.parquet", "day=2/c.parquet",
    ]  # fmt: skip
    assert [(g.file, g.index, g.requests) for g in split.row_groups[:3]] == [
        (0, 0, 2), (0, 1, 2), (0, 2, 1),
    ]  # fmt: skip
    assert split.requests == 15
    counted = sum(max(len(row["candidates"] or []), 1) for row in tables.rows(5))
    assert split.candidates == 3 * counted


def test_several_folders_are_one_split_in_their_order(tmp_path: Path) -> None:
    for name, rows in (("train", 5), ("valid", 3)):
        tables.write(tmp_path / name, tables.rows(rows))
    config = tables.config(tmp_path)
    data = config.data.model_copy(update={"train": ("valid", "train")})
    both = open_split(config.model_copy(update={"data": data}), "train")
    valid, train = open_split(config, "valid"), open_split(config, "train")
    assert both.files == valid.files + train.files
    assert both.requests == 8
    assert both.candidates == valid.candidates + train.candidates
    sizes = [(both.files[group.file], group.requests) for group in both.row_groups]
    alone = [(each.files[g.file], g.requests) for each in (valid, train) for g in each.row_groups]
    assert sizes == alone


def test_one_file(tmp_path: Path) -> None:
    tables.write(tmp_path, tables.rows(3))
    assert open_table(str(tmp_path / "part-000.parquet")).requests == 3


def test_local_footers_are_read_without_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        tables.write(tmp_path / name, tables.rows(5))
    monkeypatch.delattr(splits, "ThreadPoolExecutor")
    assert len(open_table(str(tmp_path)).files) == 2


def test_a_url(tmp_path: Path) -> None:
    tables.write(tmp_path, tables.rows(3))
    split = open_table(f"file://{tmp_path}")
    assert split.requests == 3
    assert split.show(0) == f"file://{tmp_path}/part-000.parquet"


def truncated(folder: Path) -> None:
    tables.write(folder, tables.rows(9))
    path = folder / "part-000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder.rmdir(), "data.train: {folder}: no such folder; check data.root"),
        (lambda folder: None, "data.train: {folder}: no *.parquet file; write the request table"),
        (
            lambda folder: pq.write_table(tables.SCHEMA.empty_table(), folder / "a.parquet"),
            "data.train: {folder}: the Parquet files have no rows; write some requests",
        ),
        (truncated, "{folder}/part-000.parquet: not readable as Parquet ("),
        (
            lambda folder: (folder / "a.parquet").touch(),
            "{folder}/a.parquet: not readable as Parquet (",
        ),
    ],
    ids=["missing", "empty", "no rows", "truncated", "no bytes"],
)  # fmt: skip
def test_faults_of_files(tmp_path: Path, prepare: object, message: str) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    prepare(folder)  # type: ignore[operator]
    with pytest.raises(UserError) as error:
        open_split(tables.config(tmp_path), "train")
    assert str(error.value).startswith(message.format(folder=folder))
    assert "\n" not in str(error.value)


def test_an_unknown_scheme() -> None:
    with pytest.raises(UserError, match=r"^data\.train: nothing://here/train: .*check data\.root"):
        open_split(tables.config("nothing://here"), "train")

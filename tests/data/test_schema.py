"""Columns that are missing or of the wrong type, told with the fix."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.encoding import Vocabulary
from recsys.data.fit import fit
from recsys.data.layout import Layout
from recsys.data.reader import Reader
from recsys.data.schema import leaf_columns, projection
from recsys.data.splits import open_table
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from tests.data import tables


def retyped(column: str, kind: pa.DataType | None, name: str | None = None) -> pa.Schema:
    """The test schema with one column of another type (None: left out) or name."""

    def change(fields: Any, wanted: str) -> list[pa.Field]:
        found = []
        for each in fields:
            if each.name != wanted:
                found.append(each)
            elif kind is not None:
                found.append(pa.field(name or wanted, kind))
        return found

    top, _, inner = column.partition(".")
    if not inner:
        return pa.schema(change(tables.SCHEMA, top))
    struct = change(tables.SCHEMA.field(top).type.value_type, inner)
    index = tables.SCHEMA.get_field_index(top)
    return tables.SCHEMA.set(index, pa.field(top, pa.list_(pa.struct(struct))))


CASES = [
    ("user", None, {}, "no column user; "),
    ("candidates.item_id", (pa.int64(), "item_idd"), {},
     "no column candidates.item_id; did you mean item_idd?"),
    ("candidates.click", None, {}, "no column candidates.click; "),
    ("surface", pa.int64(), {}, "column surface is int64, wanted string; cast the column"),
    ("user", pa.float64(), {}, "column user is double, wanted int64 or string; cast the column"),
    ("user", pa.uint64(), {}, "column user is uint64, wanted int64 or string; cast the column"),
    ("user", pa.string(), {},
     "column user is string, wanted int64 as tables.user.encode is none; set it to vocab or hash"),
    ("age", pa.string(), {},
     "column age is string, wanted a number (int64, float32 or float64); cast the column"),
    ("codes", pa.int64(), {},
     "column codes is int64, wanted a list of ids as the feature has `pooling`"),
    ("candidates.tag", pa.list_(pa.int64()), {},
     "column candidates.tag is list<element: int64>, a list, but the feature has one id; add"),
    ("candidates.click", pa.string(), {},
     "column candidates.click is string, wanted a label (int8, float32 or bool"),
    ("candidates", pa.int64(), {}, "column candidates is int64, wanted list<struct<…>>; write one"),
    ("history", None, {}, "no column history; known: "),
    ("candidates.city", pa.int64(), {},
     "column history.city is string, but candidates.city of "),
    ("time", pa.string(), {"predictions": True},
     "column time is string, wanted int64 (ms since epoch) or timestamp; cast the column"),
    ("request_id", pa.float64(), {"predictions": True},
     "column request_id is double, wanted int64 or string; cast the column"),
    ("note", None, {"predictions": True}, "no column note (evaluation.keep); known: "),
]  # fmt: skip


@pytest.mark.parametrize(("column", "kind", "options", "message"), CASES)
def test_wrong_schema(
    tmp_path: Path, column: str, kind: Any, options: dict[str, Any], message: str
) -> None:
    kind, name = kind if isinstance(kind, tuple) else (kind, None)
    schema = retyped(column, kind, name)
    (tmp_path / "train").mkdir()
    path = tmp_path / "train" / "a.parquet"
    pq.write_table(schema.empty_table(), path)
    row = pa.Table.from_pylist([{}], schema)
    pq.write_table(row, path)
    with pytest.raises(UserError) as error:
        Reader(tables.config(tmp_path), "train", None, batch_candidates=1, **options)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_file_is_checked(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", tables.rows(4))
    table = pa.Table.from_pylist([{}], retyped("age", pa.string()))
    pq.write_table(table, tmp_path / "train" / "part-001.parquet")
    with pytest.raises(UserError, match=r"part-001\.parquet: column age is string"):
        Reader(tables.config(tmp_path), "train", None, batch_candidates=1)


def test_a_vocabulary_of_another_type(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", tables.rows(4))
    known = {"city": Vocabulary(pa.array([1, 2])), "code": Vocabulary(pa.array([1]))}
    with pytest.raises(UserError, match=r"column candidates\.city of .* is string, but the vocab"):
        Reader(tables.config(tmp_path), "train", Statistics(known), batch_candidates=1)


def test_only_columns_that_are_read_are_decoded(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", tables.rows(4))
    layout = Layout(tables.config(tmp_path))
    split = open_table(str(tmp_path / "train"))
    with pq.ParquetFile(split.files[0]) as parquet:
        plain = leaf_columns(parquet, projection(layout, split, predictions=False, labels=True))
        bare = leaf_columns(parquet, projection(layout, split, predictions=True, labels=False))
    names = {path.split(".")[0] for path in plain}
    assert names == {
        "surface", "user", "seed", "country", "codes", "query", "terms", "age", "score",
        "history", "candidates",
    }  # fmt: skip
    assert not any(path.endswith(".x") for path in plain)
    assert sum(path.endswith((".click", ".like", ".buy")) for path in plain) == 3
    assert {"request_id", "time", "note"} <= {path.split(".")[0] for path in bare}
    assert not any(path.endswith((".click", ".like", ".buy")) for path in bare)


@pytest.mark.parametrize("wide", [False, True])
def test_other_types_of_the_same_meaning(tmp_path: Path, wide: bool) -> None:
    rows = tables.rows(30, seed=2)
    tables.write(tmp_path / "train", rows)
    config = tables.config(tmp_path)
    want = list(Reader(config, "train", fit(config), batch_candidates=9))
    table = pq.read_table(tmp_path / "train")
    kinds = {"surface": pa.large_string(), "user": pa.int32(), "country": pa.large_string(),
             "codes": pa.large_list(pa.int32()), "age": pa.float64()}  # fmt: skip
    if wide:
        kinds["surface"] = kinds["country"] = pa.dictionary(pa.int8(), pa.string())
    for name, kind in kinds.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, table[name].cast(kind))
    pq.write_table(table, tmp_path / "train" / "part-000.parquet")
    found = list(Reader(config, "train", fit(config), batch_candidates=9))
    for a, b in zip(want, found, strict=True):
        for name, jagged in a.sparse.items():
            assert jagged.values().tolist() == b.sparse[name].values().tolist()
        assert (
            a.request_numbers.nan_to_num(-1).tolist() == b.request_numbers.nan_to_num(-1).tolist()
        )

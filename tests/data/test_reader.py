"""The reader against slow, plain code; order, ranks, resuming, threads."""

import math
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.fit import fit
from recsys.data.layout import Layout
from recsys.data.reader import Reader, empty_batch
from recsys.data.rowgroups import RowGroups
from recsys.data.splits import open_table
from recsys.errors import UserError
from tests.data import tables

SIZES = ((50, 13), (7, 7), (63, 30))  # (requests, row group size) of each file
COUNT = sum(requests for requests, _ in SIZES)
ROWS = tables.rows(COUNT, seed=3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("tables")
    tables.write(root / "train", ROWS, *SIZES)
    return tables.config(root)


def read(config: Config, **options: Any) -> list[Batch]:
    options = {"batch_candidates": 17, **options}
    with Reader(config, options.pop("split", "train"), fit(config), **options) as reader:
        return list(reader)


def users(batch: Batch) -> list[int]:
    """The numbers of a batch's requests: `user` of request number n is n."""
    return (batch.sparse["request_bags"]["request.user"].values() - 1).tolist()


def check(batch: Batch, config: Config, rows: list[dict], known: dict[str, list]) -> None:
    """Compares a batch with what plain code makes of the same requests."""
    want = tables.expected(config, [rows[number] for number in users(batch)], known)
    layout = Layout(config)
    assert list(batch.sparse) == list(layout.collections)
    for name, features in want["sparse"].items():
        jagged = batch.sparse[name]
        assert jagged.keys() == [column.key for column in layout.ids_of(name)]
        strides = batch.candidates if name == "candidate_bags" else batch.requests
        # torchrec's sharding refuses a stride of 0: one empty run stands for none.
        assert jagged.stride() == max(1, strides)
        assert jagged.values().dtype == jagged.lengths().dtype == torch.int64
        for key, (values, lengths) in features.items():
            assert jagged[key].values().tolist() == values, key
            assert jagged[key].lengths().tolist() == (lengths if strides else [0]), key
    assert {key: x.tolist() for key, x in batch.bag_lengths.items()} == want["bag_lengths"]
    for level, numbers in want["numbers"].items():
        found = getattr(batch, f"{level}_numbers")
        assert found.dtype == torch.float32
        expected = np.array(numbers, dtype=np.float32).reshape(found.shape)
        np.testing.assert_array_equal(found.numpy(), expected)
    labels = np.array(want["labels"], dtype=np.float32).reshape(-1, len(layout.tasks))
    np.testing.assert_array_equal(batch.labels.numpy(), labels)
    for name in (
        "history_lengths",
        "candidate_lengths",
        "request_index",
        "request_surface_index",
        "surface_index",
    ):
        assert getattr(batch, name).tolist() == want[name], name
        assert getattr(batch, name).dtype == torch.int64
    surfaces = want["request_surface_index"]
    assert surfaces == sorted(surfaces)
    for number in range(len(layout.surfaces)):
        a, b = batch.request_offsets[number : number + 2]
        assert surfaces[a:b] == [number] * surfaces.count(number)
        a, b = batch.candidate_offsets[number : number + 2]
        assert want["surface_index"][a:b] == [number] * want["surface_index"].count(number)
    assert batch.request_offsets[0] == batch.candidate_offsets[0] == 0
    assert batch.requests == len(surfaces)
    assert batch.candidates == len(want["request_index"])
    assert batch.longest_history == max(want["history_lengths"], default=0)
    assert batch.most_candidates == max(want["candidate_lengths"], default=0)


def greedy(order: list[int], most: int) -> list[list[int]]:
    """Cuts requests into batches, and sorts each by surface, one request after the other."""
    batches: list[list[int]] = []
    used = 0
    for number in order:
        cost = max(len(ROWS[number]["candidates"] or []), 1)
        if not batches or used + cost > most:
            batches.append([])
            used = 0
        batches[-1].append(number)
        used += cost
    surfaces = list(tables.DOCUMENT["surfaces"])
    return [sorted(batch, key=lambda n: surfaces.index(ROWS[n]["surface"])) for batch in batches]


@pytest.mark.parametrize("most", [1, 3, 17, 10_000])
def test_equals_plain_code_in_the_order_of_files(config: Config, most: int) -> None:
    known = tables.vocabularies(config, ROWS)
    batches = read(config, shuffle=False, batch_candidates=most)
    assert [users(batch) for batch in batches] == greedy(list(range(COUNT)), most)
    for batch in batches:
        check(batch, config, ROWS, known)


@pytest.mark.parametrize("seed", range(4))
def test_equals_plain_code_when_shuffled(tmp_path: Path, seed: int) -> None:
    rows = tables.rows(60, seed=seed)
    tables.write(tmp_path / "train", rows, (41, 9), (19, 19))
    config = tables.config(tmp_path, training={"seed": seed})
    known = tables.vocabularies(config, rows)
    batches = read(config, batch_candidates=11)
    for batch in batches:
        check(batch, config, rows, known)
    assert sorted(n for batch in batches for n in users(batch)) == list(range(60))


def test_a_batch_holds_as_many_requests_as_fit_whatever_the_windows(config: Config) -> None:
    one = [n for batch in read(config, batch_candidates=1) for n in users(batch)]
    for most in (5, 23):
        batches = read(config, batch_candidates=most)
        assert [users(batch) for batch in batches] == greedy(one, most)
        assert all(b.candidates <= most or b.requests == 1 for b in batches)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_each_request_is_read_once(config: Config, world: int) -> None:
    shares = []
    for rank in range(world):
        reader = Reader(config, "train", fit(config), rank=rank, world=world, batch_candidates=9)
        found = [n for batch in reader for n in users(batch)]
        assert len(found) == reader.requests
        shares.append(found)
    assert sorted(n for share in shares for n in share) == list(range(COUNT))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_ranks_than_requests(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", tables.rows(2), (2, 1))
    config = tables.config(tmp_path)
    shares = [read(config, rank=rank, world=5) for rank in range(5)]
    assert sorted(n for share in shares for batch in share for n in users(batch)) == [0, 1]


def test_the_order_depends_on_seed_and_epoch_alone(config: Config) -> None:
    def order(epoch: int = 0, **training: Any) -> list[int]:
        changed = tables.config(config.data.root, training=training) if training else config
        return [n for batch in read(changed, epoch=epoch) for n in users(batch)]

    assert order() == order()
    orders = [order(), order(epoch=1), order(epoch=2), order(seed=7)]
    assert all(sorted(each) == list(range(COUNT)) for each in orders)
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))


def same(a: Batch, b: Batch) -> bool:
    return users(a) == users(b) and a.position == b.position and torch.equal(
        a.labels.nan_to_num(-1), b.labels.nan_to_num(-1)
    )  # fmt: skip


def test_goes_on_from_any_position(config: Config) -> None:
    whole = read(config)
    assert whole[-1].position == []
    for number, batch in enumerate(whole):
        rest = read(config, remaining=batch.position)
        assert len(rest) == len(whole) - number - 1
        assert all(same(*pair) for pair in zip(rest, whole[number + 1 :], strict=True))


def test_each_rank_goes_on_with_its_own_share(config: Config) -> None:
    whole = [read(config, rank=rank, world=3) for rank in range(3)]
    for step in (0, 2):
        saved = [batches[step].position for batches in whole]
        for rank in range(3):
            rest = read(config, rank=rank, world=3, remaining=saved)
            assert all(same(*pair) for pair in zip(rest, whole[rank][step + 1 :], strict=True))


@pytest.mark.parametrize("world", [1, 2, 5])
@pytest.mark.parametrize("flat", [True, False])
def test_another_number_of_ranks_takes_up_what_remains(
    config: Config, world: int, flat: bool
) -> None:
    done, saved = [], []
    for rank in range(3):
        batches = read(config, rank=rank, world=3)
        done += [n for batch in batches[: rank + 1] for n in users(batch)]
        saved.append(batches[rank].position)
    remaining = [interval for share in saved for interval in share] if flat else saved
    for rank in range(world):
        for batch in read(config, rank=rank, world=world, remaining=remaining):
            done += users(batch)
    assert sorted(done) == list(range(COUNT))


@pytest.fixture(scope="module")
def sampled(config: Config) -> Config:
    """Half of the first surface's requests, a fifth of the second's, all of the others."""
    surfaces = {name: dict(each) for name, each in tables.DOCUMENT["surfaces"].items()}
    for each, rate in zip(surfaces.values(), (0.5, 0.2), strict=False):
        each["request_sampling"] = rate
    return tables.config(config.data.root, surfaces=surfaces)


def surface_of(number: int) -> str:
    return ROWS[number]["surface"]


def test_a_share_of_a_surfaces_requests_is_taken(sampled: Config) -> None:
    epochs = [read(sampled, sample=True, epoch=epoch) for epoch in range(40)]
    taken = [{n for batch in batches for n in users(batch)} for batches in epochs]
    assert taken[0] != taken[1]
    assert [n for b in read(sampled, sample=True) for n in users(b)] == [
        n for b in epochs[0] for n in users(b)
    ]
    rates = {name: each.request_sampling for name, each in sampled.surfaces.items()}
    assert set(rates.values()) == {0.5, 0.2, 1.0}
    for surface, rate in rates.items():
        every = [n for n in range(COUNT) if surface_of(n) == surface]
        shares = [len(kept & set(every)) / len(every) for kept in taken]
        assert np.mean(shares) == pytest.approx(rate, abs=4 * np.std(shares) / 40**0.5 + 1e-9)
        # Each request by itself: all have their turn.
        assert set(every) <= set().union(*taken)


def test_without_sampling_the_rates_change_nothing(config: Config, sampled: Config) -> None:
    for found, expected in zip(read(sampled), read(config), strict=True):
        assert same(found, expected)
        assert found.passed == found.requests


@pytest.mark.parametrize("most", [3, 17])
def test_a_sampled_epoch_goes_on_from_any_position(sampled: Config, most: int) -> None:
    whole = read(sampled, sample=True, batch_candidates=most)
    kept = [n for b in read(sampled, sample=True, batch_candidates=1) for n in users(b)]
    assert [users(batch) for batch in whole] == greedy(kept, most)
    for number, batch in enumerate(whole):
        rest = read(sampled, sample=True, batch_candidates=most, remaining=batch.position)
        assert len(rest) == len(whole) - number - 1
        assert all(same(*pair) for pair in zip(rest, whole[number + 1 :], strict=True))
    left_over = sum(b - a for a, b in whole[-1].position)  # what is left out at the very end
    assert sum(batch.passed for batch in whole) + left_over == COUNT


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_sample_the_same_requests(sampled: Config, world: int) -> None:
    alone = {n for batch in read(sampled, sample=True) for n in users(batch)}
    saved, done = [], []
    for rank in range(world):
        batches = read(sampled, sample=True, rank=rank, world=world)
        done += [n for batch in batches[:2] for n in users(batch)]
        saved.append(batches[min(1, len(batches) - 1)].position)
    for rank in range(2):  # two ranks take up what is left
        for batch in read(sampled, sample=True, rank=rank, world=2, remaining=saved):
            done += users(batch)
    assert sorted(done) == sorted(alone)
    assert 0 < len(alone) < COUNT


def test_nothing_of_the_only_surface_may_be_left(tmp_path: Path) -> None:
    rows = tables.rows(6)
    tables.write(tmp_path / "train", rows, (6, 2))
    surfaces = {
        name: {**each, "request_sampling": 1e-9}
        for name, each in tables.DOCUMENT["surfaces"].items()
    }
    assert read(tables.config(tmp_path, surfaces=surfaces), sample=True) == []


def test_only_a_shuffled_epoch_is_sampled(sampled: Config) -> None:
    with pytest.raises(ValueError, match="only a shuffled epoch is sampled"):
        read(sampled, sample=True, shuffle=False)


def test_a_position_of_other_files_is_refused(config: Config) -> None:
    with pytest.raises(UserError, match=r"has 120 requests, but the saved position goes to 150"):
        read(config, remaining=[[100, 150]])


def test_predictions_have_their_columns(config: Config) -> None:
    for batch in read(config, predictions=True):
        columns = batch.columns
        assert columns.column_names == [
            "request_id", "time", "user", "note", "candidate", "item_id",
        ]  # fmt: skip
        want = [
            (row["request_id"], row["time"], number, row["note"], position,
             None if candidate is None else candidate["item_id"])
            for number in users(batch)
            for row in [ROWS[number]]
            for position, candidate in enumerate(row["candidates"] or [])
        ]  # fmt: skip
        assert [tuple(row.values()) for row in columns.to_pylist()] == want


def test_labels_need_not_exist(tmp_path: Path) -> None:
    rows = tables.rows(20)
    tables.write(tmp_path / "train", rows)
    config = tables.config(tmp_path)
    other = tmp_path / "unlabelled"
    table = pq.read_table(tmp_path / "train")
    candidates = table["candidates"].combine_chunks()
    struct = candidates.values
    kept = [name for name in struct.type.names if name not in ("click", "like", "buy")]
    bare = pa.StructArray.from_arrays([struct.field(n) for n in kept], kept, mask=struct.is_null())
    bare = pa.ListArray.from_arrays(candidates.offsets, bare, mask=candidates.is_null())
    other.mkdir()
    index = table.column_names.index("candidates")
    pq.write_table(table.set_column(index, "candidates", bare), other / "a.parquet")
    split = open_table(str(other))
    batches = read(config, split=split, labels=False)
    assert sum(batch.requests for batch in batches) == 20
    assert all(batch.labels.isnan().all() for batch in batches)
    with pytest.raises(UserError, match=r"no column candidates\.click"):
        read(config, split=split)


def test_history_is_not_read_without_a_sequence_model(config: Config) -> None:
    plain = tables.config(config.data.root, model={"sequence": None})
    batch = read(plain)[0]
    assert batch.longest_history == 0
    assert batch.history_numbers.shape == (0, 0)


def test_empty_batch(config: Config) -> None:
    batch = empty_batch(Layout(config))
    check(batch, config, ROWS, {})
    assert batch.position == []
    assert batch.requests == batch.candidates == 0
    assert batch.labels.shape == (0, 3)


def test_batches_move_between_devices(config: Config) -> None:
    batch = read(config)[0].to(torch.device("cpu"))
    check(batch, config, ROWS, tables.vocabularies(config, ROWS))


def test_memory_url() -> None:
    rows = tables.rows(30)
    memory = fsspec.filesystem("memory")
    with memory.open("/reader/train/b.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, tables.SCHEMA), file, row_group_size=7)
    config = tables.config("memory://reader")
    known = tables.vocabularies(config, rows)
    batches = read(config)
    assert sorted(n for batch in batches for n in users(batch)) == list(range(30))
    for batch in batches:
        check(batch, config, rows, known)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("recsys-")]


def test_threads_end_with_the_iterator(config: Config) -> None:
    reader = Reader(config, "train", fit(config), batch_candidates=5)
    for _ in reader:
        break
    assert not threads()
    iterator = iter(reader)
    next(iterator)
    assert threads()
    reader.close()
    assert not threads()
    assert list(iterator) == []
    with Reader(config, "train", fit(config), batch_candidates=5) as other:
        kept = iter(other)
        next(kept)
    assert not threads()
    list(reader)
    assert not threads()


def test_works_ahead_by_no_more_than_asked(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    table = RowGroups.table

    def counted(self: Any, number: int) -> Any:
        decoded.append(number)
        return table(self, number)

    statistics = fit(config)
    monkeypatch.setattr(RowGroups, "table", counted)
    one = tables.config(
        config.data.root, data={**config.data.model_dump(), "shuffle_row_groups": 1}
    )
    iterator = iter(Reader(one, "train", statistics, batch_candidates=2))
    next(iterator)
    time.sleep(0.3)
    # The current window, the next, one that a batch was left open in, and a row group.
    assert 0 < len(decoded) <= 4
    iterator.close()


def test_errors_of_the_background_reach_the_consumer(tmp_path: Path) -> None:
    rows = tables.rows(60)
    rows[50]["surface"] = "hoem"
    tables.write(tmp_path / "train", rows, (60, 10))
    config = tables.config(tmp_path)
    seen = 0
    with (
        pytest.raises(UserError, match=r"row group 5: column surface: 'hoem' is not a surface"),
        Reader(config, "train", fit_of(config, rows[:50], tmp_path), shuffle=False,
               batch_candidates=3) as reader,
    ):  # fmt: skip
        for batch in reader:
            seen += batch.requests
    assert 0 < seen <= 50
    assert not threads()


def fit_of(config: Config, rows: list[dict], folder: Path) -> Any:
    tables.write(folder / "fitted", rows)
    return fit(tables.config(folder, data={"root": str(folder), "train": "fitted"}))


def test_a_file_cut_short_while_reading(tmp_path: Path) -> None:
    tables.write(tmp_path / "train", tables.rows(60), (60, 10))
    config = tables.config(tmp_path)
    statistics = fit(config)
    reader = Reader(config, "train", statistics, batch_candidates=3)
    path = tmp_path / "train" / "part-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-000\.parquet: not readable as Parquet"):
        list(reader)


def test_null_is_nan_and_row_0(tmp_path: Path) -> None:
    rows = tables.rows(1)
    rows[0] |= {"surface": "search", "seed": None, "query": None, "age": None, "codes": [None, 4]}
    tables.write(tmp_path / "train", rows)
    batch = read(tables.config(tmp_path))[0]
    bags, items = batch.sparse["request_bags"], batch.sparse["sequences_8"]
    assert items["request.seed"].values().tolist() == [0]
    assert items["request.seed"].lengths().tolist() == [1]
    assert bags["request.query"].values().tolist() == [0]
    assert bags["request.codes"].values().tolist() == [0, 1]
    assert math.isnan(batch.request_numbers[0, 0])


@pytest.mark.parametrize("chosen", [["search"], ["home", "related"]])
def test_rows_of_surfaces_that_are_not_trained_are_passed_over(
    config: Config, chosen: list[str]
) -> None:
    part = config.model_validate(
        {
            **config.model_dump(by_alias=True),
            "data": {**config.data.model_dump(), "surfaces": chosen},
        }
    )
    wanted = [number for number, row in enumerate(ROWS) if row["surface"] in chosen]
    assert 0 < len(wanted) < COUNT
    with Reader(part, "train", fit(part), batch_candidates=17) as reader:
        assert reader.requests == len(wanted)
        batches = list(reader)
    assert sorted(number for batch in batches for number in users(batch)) == wanted
    # A position counts the rows that are read: the rest of the epoch is the same after a resume.
    third = batches[2].position
    rest = read(part, remaining=[third])
    assert [users(batch) for batch in rest] == [users(batch) for batch in batches[3:]]
    assert reader.layout.surfaces == tuple(name for name in config.surfaces if name in chosen)

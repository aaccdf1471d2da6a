import hashlib
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from recsys.config import load_config
from recsys.data.recipes.simulate import SPLITS, SimulateOptions, print_best, simulate
from recsys.data.recipes.simulate.recent import HISTORY_LENGTH
from recsys.data.recipes.simulate.table import SCHEMA
from recsys.data.recipes.simulate.truth import BestReachable
from recsys.data.recipes.simulate.users import Activity
from recsys.data.recipes.simulate.world import TASKS
from recsys.errors import UserError

TASKS_OF = {
    "home": ("click", "like"),
    "search": ("click", "purchase"),
    "related": ("click", "long_view"),
}
OPTIONS = SimulateOptions(
    requests=12_000, candidates=6, users=240, row_group_requests=512, file_requests=2_048
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulate") / "log"
    simulate(out, OPTIONS)
    return out


@pytest.fixture(scope="module")
def table(folder: Path) -> pa.Table:
    return pa.concat_tables(read(folder, split) for split in SPLITS).combine_chunks()


def read(folder: Path, split: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in sorted((folder / split).iterdir()))


def candidates(table: pa.Table) -> tuple[np.ndarray, pa.StructArray]:
    """Row of the request of each candidate, and the candidates."""
    column = table["candidates"].chunk(0)
    return np.repeat(np.arange(len(table)), np.diff(column.offsets.to_numpy())), column.flatten()


def test_files_have_the_request_table_schema(folder: Path) -> None:
    for split in SPLITS:
        for path in (folder / split).iterdir():
            file = pq.ParquetFile(path)
            assert file.schema_arrow == SCHEMA
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            assert all(group.num_rows <= 512 for group in groups)
            assert file.metadata.num_rows <= 2_048
            assert groups[0].column(0).compression == "ZSTD"
    assert len(list((folder / "train").iterdir())) > 1
    assert pq.ParquetFile(folder / "train" / "part-00000.parquet").num_row_groups == 4
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp")]


def test_requests_are_unique_and_split_by_time(folder: Path, table: pa.Table) -> None:
    ids = table["request_id"].to_numpy()
    assert len(ids) == OPTIONS.requests
    assert len(np.unique(ids)) == len(ids)
    times = [read(folder, split)["time"].to_numpy() for split in SPLITS]
    assert times[0].max() < times[1].min()
    assert times[1].max() < times[2].min()
    shares = [len(t) / len(ids) for t in times]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)


def test_rows_are_sorted_by_user_then_time(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        rows = pq.read_table(path, columns=["user_id", "time"])
        user, time = rows["user_id"].to_numpy(), rows["time"].to_numpy()
        assert (np.diff(user) >= 0).all()
        assert (np.diff(time)[np.diff(user) == 0] > 0).all()


def test_history_is_what_the_user_clicked_before_on_any_surface(table: pa.Table) -> None:
    clicks: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    crossed = 0
    for row in table.sort_by([("user_id", "ascending"), ("time", "ascending")]).to_pylist():
        before = clicks[row["user_id"]][-HISTORY_LENGTH:]
        history = row["history"]
        assert [(e["item_id"], e["category"], e["action"]) for e in history] == [
            event[1:] for event in before
        ]
        ages = [(row["time"] - event[0]) / 3.6e6 for event in before]
        assert all(age > 0 for age in ages)
        assert [e["age_hours"] for e in history] == pytest.approx(ages, rel=1e-6)
        crossed += row["surface"] == "search" and any(event[3] == 4 for event in before)
        for shown in row["candidates"]:
            if shown["click"]:
                # The strongest thing done: click 1, like 2, purchase 3, long_view 4.
                action = max(1 + i for i, task in enumerate(TASKS) if shown[task])
                clicks[row["user_id"]].append(
                    (row["time"], shown["item_id"], shown["category"], action)
                )
    assert crossed > 100  # long views happen on related only and are seen by search


def test_labels_follow_the_truth(table: pa.Table) -> None:
    request, shown = candidates(table)
    surface = np.array(table["surface"].to_pylist())[request]
    for name, tasks in TASKS_OF.items():
        rows = surface == name
        for task in tasks:
            p = shown.field(f"truth.{task}").to_numpy(zero_copy_only=False)[rows]
            y = shown.field(task).to_numpy(zero_copy_only=False)[rows]
            assert (p > 0).all() and (p < 1).all()
            assert y.mean() > 0.05
            for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 1), (0, 1)):
                bucket = (p >= low) & (p < high)
                error = np.sqrt((p * (1 - p))[bucket].sum())
                assert abs((y - p)[bucket].sum()) < 4 * error, (name, task, low)


def test_a_second_task_happens_only_with_a_click(table: pa.Table) -> None:
    _, shown = candidates(table)
    click = shown.field("click").to_numpy(zero_copy_only=False)
    for task in TASKS[1:]:
        label = np.nan_to_num(shown.field(task).to_numpy(zero_copy_only=False))
        assert label.sum() > 0
        assert (label <= click).all()


def test_what_a_surface_lacks_is_null_there(table: pa.Table) -> None:
    request, shown = candidates(table)
    surface = np.array(table["surface"].to_pylist())
    for name, tasks in TASKS_OF.items():
        rows = surface[request] == name
        for task in TASKS:
            for column in (task, f"truth.{task}"):
                known = shown.field(column).is_valid().to_numpy(zero_copy_only=False)[rows]
                assert known.all() if task in tasks else not known.any(), (name, column)
    for column, owner in {"query": "search", "seed_item": "related"}.items():
        known = table[column].is_valid().to_numpy()
        assert not known[surface != owner].any()
        # Some requests of the surface come without: their surface alone tells them from home.
        assert 0.6 < known[surface == owner].mean() < 0.85
    assert table["seed_item"].is_valid().equals(table["seed_category"].is_valid())
    match = shown.field("query_match").is_valid().to_numpy(zero_copy_only=False)
    assert (match == table["query"].is_valid().to_numpy()[request]).all()


def test_optional_features_have_some_nulls(table: pa.Table) -> None:
    _, shown = candidates(table)
    columns = {name: table[name] for name in ("country", "age_group", "interests")}
    columns |= {"tags": shown.field("tags"), "quality": shown.field("quality")}
    for name, column in columns.items():
        assert 0 < column.null_count < 0.4 * len(column), name
    assert set(table["country"].unique().to_pylist()) > {"us", None}


def test_candidates_of_a_request_are_different_and_their_mean_is_the_option(
    table: pa.Table,
) -> None:
    request, shown = candidates(table)
    pairs = np.stack([request, shown.field("item_id").to_numpy()])
    assert np.unique(pairs, axis=1).shape == pairs.shape
    assert len(shown) / len(table) == pytest.approx(OPTIONS.candidates, rel=0.03)
    surface = np.array(table["surface"].to_pylist())
    count = np.bincount(request)
    means = [count[surface == name].mean() for name in TASKS_OF]
    assert means[0] > means[1] + 0.5 > means[2] + 1.0


def test_users_and_items_have_a_long_tail(table: pa.Table) -> None:
    _, shown = candidates(table)
    for values, size in ((table["user_id"].to_numpy(), 240), (shown.field("item_id"), 1_000)):
        counts = np.sort(np.bincount(np.asarray(values), minlength=size))[::-1]
        assert counts[: size // 10].sum() > 0.3 * counts.sum()
        assert (counts > 0).mean() > 0.95


def test_equal_options_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> dict[str, str]:
        simulate(tmp_path / name, SimulateOptions(requests=600, candidates=4, users=30, seed=seed))
        return {
            str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (tmp_path / name).rglob("*.*")
            if path.name != "config.yaml"  # names its own folder
        }

    first = digest("a", seed=3)
    assert len(first) == 4
    assert first == digest("b", seed=3)
    other = digest("c", seed=4)
    assert all(first[path] != other[path] for path in first)


@pytest.mark.parametrize("surfaces", [1, 2, 5, 64])
def test_any_number_of_surfaces(tmp_path: Path, surfaces: int) -> None:
    out = tmp_path / "log"
    options = SimulateOptions(requests=1_500, candidates=3, users=30, surfaces=surfaces)
    summary = simulate(out, options)
    config = load_config(out / "config.yaml")
    assert config.data.root == str(out)
    assert len(config.surfaces) == surfaces
    best = summary["best_reachable"]["train"]["surfaces"]
    rows = read(out, "train")
    assert set(rows["surface"].unique().to_pylist()) <= set(config.surfaces) == set(best)
    for name, section in config.surfaces.items():
        assert set(section.tasks) >= set(best[name])
        assert "click" in section.tasks
    for _level, name, feature in config.features:
        if "id" not in type(feature).model_fields or _level != "request":
            continue
        ids = rows[name]
        ids = ids.combine_chunks().flatten() if pa.types.is_list(ids.type) else ids
        if pa.types.is_integer(ids.type) and len(ids.drop_null()):
            assert pa.compute.max(ids).as_py() < config.tables[feature.id].rows


def test_recipe_tells_options_counts_and_what_is_best_reachable(folder: Path) -> None:
    recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    assert recipe["options"]["requests"] == OPTIONS.requests
    assert recipe["options"]["users"] == 240
    assert sum(recipe["requests"].values()) == OPTIONS.requests
    train = recipe["best_reachable"]["train"]
    for name, tasks in TASKS_OF.items():
        assert set(train["surfaces"][name]) == set(tasks)
        for cell in train["surfaces"][name].values():
            assert cell["auc"] > 0.77
            assert cell["ne"] < 0.85
            assert cell["pcoc"] == pytest.approx(1, abs=0.06)
    assert train["all"]["click"]["rows"] == recipe["candidates"]["train"]


def test_best_reachable_is_auc_ne_and_pcoc() -> None:
    best = BestReachable(("train",), ("home", "search"))
    p = np.array([0.1, 0.4, 0.35, 0.8, 0.35])
    y = np.array([0, 0, 1, 1, 0])
    for half in (slice(0, 2), slice(2, 5)):
        best.add(0, np.zeros(len(y[half]), np.int64), 0, p[half], y[half])
    report = best.report()["train"]
    cell = report["surfaces"]["home"]["click"]
    assert cell["auc"] == pytest.approx(4.5 / 6)  # six pairs, one of them a tie
    entropy = -np.mean(np.log(np.where(y, p, 1 - p)))
    base = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    assert cell["ne"] == pytest.approx(entropy / base)
    assert cell["pcoc"] == pytest.approx(p.sum() / 2)
    assert report["surfaces"]["search"] == {}
    assert report["all"]["click"] == cell


def test_best_reachable_is_printed(folder: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_best(json.loads((folder / "recipe.json").read_text()), console)
    text = console.file.getvalue()
    assert all(word in text for word in ("search", "purchase", "base rate", "AUC", "NE"))


def test_activity_shares_out_every_request_once() -> None:
    first, requests = Activity(97, 5_000).of(np.arange(97))
    assert requests.sum() == 5_000
    covered = np.concatenate([np.arange(a, a + n) for a, n in zip(first, requests, strict=True)])
    assert sorted(covered) == list(range(5_000))
    assert requests.max() > 4 * requests.mean()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("requests", 0, "requests: 0 given; use a whole number from 1 to 1,000,000,000,000"),
        ("surfaces", 65, "surfaces: 65 given; use a whole number from 1 to 64"),
        ("candidates", 0, "candidates: 0 given; use a whole number from 1 to 100"),
        ("items", 5, "items: 5 given; use a whole number from 100 to 10,000,000"),
        ("users", 3, "users: 3 given; use a whole number from 10 to 20,000"),
        ("seed", -1, "seed: -1 given; use a whole number from 0 to"),
        ("requests", 1.5, "requests: 1.5 given; use a whole number"),
    ],
)
def test_bad_options_name_the_value_and_the_fix(option: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        SimulateOptions(**{option: value})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(UserError, match="already exists; give another folder"):
        simulate(tmp_path, SimulateOptions(requests=100, users=10))
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]

"""Weights of another run, matched by meaning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from recsys.config import Config, TableConfig, load_config
from recsys.data.encoding import Vocabulary
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.evaluation.score import load_model
from recsys.model.unified import UnifiedModel, build_model
from recsys.run_directory import RunDirectory
from recsys.training.train import train
from recsys.training.warm_start import Part, warm_start
from recsys.training.warm_start.rows import match_rows
from tests.training.conftest import SMALL
from tests.two_ranks import TwoRanks


def without_related(logs: Path, folder: Path) -> Path:
    """The same logs of two surfaces, and their configuration; home has one task less."""
    for split in ("train", "valid", "test"):
        table = pq.read_table(logs / split)
        (folder / split).mkdir(parents=True)
        kept = table.filter(pc.not_equal(table["surface"], "related"))
        pq.write_table(kept, folder / split / "part-0.parquet", row_group_size=32)
    config = load_config(logs / "config.yaml", SMALL).model_dump(mode="json", by_alias=True)
    config["data"]["root"] = str(folder)
    del config["surfaces"]["related"]
    for feature in ("seed_item", "seed_category"):
        del config["features"]["request"][feature]
    config["surfaces"]["home"]["tasks"] = {"click": 1.0}
    config["surfaces"]["home"]["tower"]["branches"] = {"click": [64]}
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def old_config(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(without_related(logs, tmp_path_factory.mktemp("two") / "logs"))


@pytest.fixture(scope="module")
def old(old_config: Config, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained run of two surfaces."""
    run = RunDirectory(tmp_path_factory.mktemp("old") / "run")
    train(old_config, run.path)
    return run


@pytest.fixture(scope="module")
def wider(logs: Path) -> Config:
    """A third surface with features of its own, a new task, a grown table."""
    branches = "surfaces.home.tower.branches={click: [64], like: [64]}"
    return load_config(logs / "config.yaml", [*SMALL, "tables.item.rows=1500", branches])


def started(config: Config, source: RunDirectory) -> tuple[UnifiedModel, dict[str, Part]]:
    """A model in one process that started from `source`, with its statistics."""
    torch.manual_seed(7)
    model = build_model(config)
    statistics = Statistics.load(source.statistics)
    model.fit_numbers(statistics.numbers)
    parts = warm_start(model, model.state_dict(), statistics, source.path)
    return model.eval(), {part.name: part for part in parts}


@torch.inference_mode()
def logits_of(model: UnifiedModel, config: Config, statistics: Statistics) -> np.ndarray:
    """`[2 N, T]`, raw ones and below them calibrated ones."""
    with Reader(config, "test", statistics, shuffle=False, batch_candidates=4096) as reader:
        parts = [model(batch) for batch in reader]
    raw, calibrated = (torch.cat([getattr(part, name) for part in parts]) for name in
                       ("raw", "calibrated"))  # fmt: skip
    assert not torch.allclose(raw.double(), calibrated, atol=1e-4)
    return torch.cat([raw.double(), calibrated]).numpy()


def test_nothing_new_changes_a_prediction(
    old: RunDirectory, old_config: Config, wider: Config
) -> None:
    """The wider model scores the old surfaces' rows as the old one does, before it is trained."""
    statistics = Statistics.load(old.statistics)
    expected = logits_of(load_model(old, old_config), old_config, statistics)
    model, _ = started(wider, old)
    same_rows = wider.model_copy(update={"data": old_config.data})
    found = logits_of(model, same_rows, statistics)
    known = [wider.tasks.index(task) for task in old_config.tasks]
    home = [task for task in wider.tasks if task not in old_config.tasks]
    assert home  # `like` of home is new
    np.testing.assert_allclose(found[:, known], expected, atol=2e-6)
    assert np.abs(expected).max() > 0.1


def test_what_is_loaded_initialised_and_skipped(old: RunDirectory, wider: Config) -> None:
    _, parts = started(wider, old)
    status = {name: part.status for name, part in parts.items()}
    assert status["item"] == "partly loaded"
    assert parts["item"].why == "500 ids are new"
    assert status["user"] == status["query"] == "loaded"
    assert status["trunk.experts.first.weight"] == "loaded"
    assert status["trunk.projection.request.weight"] == "partly loaded"  # the surface's columns
    assert status["towers.search.tower.heads.click.weight"] == "loaded"
    assert status["towers.home.tower.gate.linear.weight"] == "partly loaded"
    assert status["towers.home.tower.heads.like.weight"] == "initialised"
    assert parts["towers.home.tower.heads.like.weight"].why == "not in the other run"
    related = {part.status for name, part in parts.items() if name.startswith("towers.related.")}
    assert related == {"initialised"}
    fusions = [part for name, part in parts.items() if name.startswith("towers.search.tower.fusi")]
    assert fusions
    assert {part.status for part in fusions} == {"loaded"}


def test_a_narrower_model_skips_what_it_does_not_have(
    old: RunDirectory, old_config: Config
) -> None:
    document = old_config.model_dump(mode="json", by_alias=True)
    document["surfaces"]["search"]["tower"]["modules"] = []
    for level, name in (("request", "query"), ("candidate", "query_match")):
        del document["features"][level][name]
    del document["tables"]["query"]
    document["tables"]["category"]["dim"] = 8
    _, parts = started(Config.model_validate(document), old)
    assert (parts["query"].status, parts["query"].why) == ("skipped", "no such table here")
    assert parts["category"].status == "loaded"
    assert parts["category"].why == "dim was 16 and is 8"
    skipped = [name for name, part in parts.items() if part.status == "skipped"]
    assert any(name.startswith("towers.search.tower.fusions.") for name in skipped)


def vocabulary(*ids: Any) -> Vocabulary:
    return Vocabulary(pa.array(ids))


def test_rows_follow_their_ids_and_not_their_places() -> None:
    table = TableConfig(rows=4, dim=4, encode="vocab")
    rows = match_rows(table, table, vocabulary("a", "b", "c"), vocabulary("c", "new", "a"))
    assert dict(zip(rows.new.tolist(), rows.old.tolist(), strict=True)) == {0: 0, 1: 3, 3: 1}
    assert rows.why == "1 ids are new"


def test_rows_of_plain_and_hashed_ids() -> None:
    def table(rows: int, encode: str) -> TableConfig:
        return TableConfig.model_validate({"rows": rows, "dim": 4, "encode": encode})

    grown = match_rows(table(2, "none"), table(4, "none"))
    assert (grown.old.tolist(), grown.new.tolist()) == ([0, 1, 2], [0, 1, 2])
    same = match_rows(table(3, "hash"), table(3, "hash"))
    assert same.new.tolist() == [0, 1, 2, 3]
    hashed = match_rows(table(3, "hash"), table(4, "hash"))
    assert (hashed.new.tolist(), hashed.why) == ([0], "ids were hashed to 3 rows, now to 4")
    # From ids of a vocabulary to ids that are their own rows.
    plain = match_rows(table(3, "vocab"), table(9, "none"), vocabulary(7, 2, 99))
    assert dict(zip(plain.new.tolist(), plain.old.tolist(), strict=True)) == {0: 0, 3: 2, 8: 1}
    strings = match_rows(table(3, "vocab"), table(9, "none"), vocabulary("7"))
    assert strings.why == "ids were string and are int64"


def with_source(config: Config, source: RunDirectory) -> Config:
    section = config.training.model_copy(update={"warm_start": str(source.path)})
    return config.model_copy(update={"training": section})


def test_a_warm_run_on_two_ranks(
    old: RunDirectory, wider: Config, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """Through `train`: sharded tables take their rows, and the run says what it took."""
    cold, warm = tmp_path / "cold", tmp_path / "warm"
    two_ranks.run(train, wider, cold)
    two_ranks.run(train, with_source(wider, old), warm)
    document = json.loads((warm / "warm_start.json").read_text())
    assert document["from"] == str(old.path)
    status = {part["name"]: part["status"] for part in document["parts"]}
    assert status["item"] == "partly loaded"
    assert not (cold / "warm_start.json").exists()

    def first_loss(run: Path, surface: str) -> float:
        line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        return line["cells"][surface]["click"]

    for surface in ("home", "search"):
        assert first_loss(warm, surface) < first_loss(cold, surface)
    # The scale of numbers is the old run's, where it knew them.
    numbers = [Statistics.load(run / "statistics").numbers for run in (warm, old.path, cold)]
    assert numbers[0]["candidate.price"] == numbers[1]["candidate.price"]
    assert numbers[0]["candidate.price"] != numbers[2]["candidate.price"]


def test_a_source_that_is_no_run(wider: Config, tmp_path: Path) -> None:
    config = with_source(wider, RunDirectory(tmp_path / "none"))
    with pytest.raises(UserError, match=r"none: not a run directory \(no config.yaml\)"):
        train(config, tmp_path / "run")

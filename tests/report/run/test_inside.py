"""What a run's directory says besides its predictions."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.data.check import check
from recsys.errors import UserError
from recsys.evaluation.score import load_model
from recsys.report.run.data import summarise
from recsys.report.run.experts import expert_use
from recsys.report.run.learning import POINTS, learning_curves
from recsys.report.run.sample import sample
from recsys.run_directory import RunDirectory
from tests.training.runs import lines_of


@pytest.fixture(scope="module")
def looked_into(trained):
    config = trained.config
    return load_model(trained, config), sample(trained, config)


def test_gates_are_weights(looked_into, trained):
    model, rows = looked_into
    found = expert_use(model, rows)
    cells = [w for tasks in found["gates"].values() for w in tasks.values()]
    expected = sum(len(each.tasks) for each in trained.config.active_surfaces.values())
    assert len(cells) == expected
    assert all(sum(weights) == pytest.approx(1) for weights in cells)
    assert found["dead"] == []


def test_an_expert_that_nobody_listens_to_is_dead(looked_into, trained):
    _, rows = looked_into
    model = load_model(trained, trained.config)
    count = trained.config.model.experts.count
    with torch.no_grad():
        for tower in model.towers.values():
            tower.tower.gate.linear.bias.view(-1, count)[:, 1] -= 50
    found = expert_use(model, rows)
    assert (found["dead"], found["silent"]) == ([1], [])


def test_an_expert_that_says_nothing_is_dead(looked_into, trained):
    _, rows = looked_into
    model = load_model(trained, trained.config)
    count = trained.config.model.experts.count
    with torch.no_grad():
        model.trunk.experts.first.weight.view(count, -1)[0] = 0
        model.trunk.experts.first.bias.view(count, -1)[0] = -1
    found = expert_use(model, rows)
    assert found["silent"] == [0]
    assert 0 in found["dead"]


def test_a_sample_has_rows_of_every_surface(looked_into, trained):
    _, rows = looked_into
    assert set(rows.parts) == set(trained.config.active_surfaces)
    for surface, parts in rows.parts.items():
        s = rows.layout.surfaces.index(surface)
        assert all((part.surface_index == s).all() for part in parts)


def test_the_data_summary_counts_what_data_check_counts(trained):
    found, notes = summarise(trained.config)
    assert notes == []
    expected = check(trained.config)["splits"]
    assert set(found) == {"train", "valid", "test"}
    for split, counts in expected.items():
        own = found[split]
        assert own["requests"] == counts["requests"]
        assert own["candidates"] == counts["candidates"]
        for surface, each in counts["surfaces"].items():
            for task, labels in each["tasks"].items():
                cell = own["surfaces"][surface]["tasks"][task]
                assert (cell["known"], cell["positives"]) == (labels["known"], labels["positives"])
    assert 0 < found["test"]["users"] <= found["train"]["users"] <= 30


def test_writers_may_name_the_elements_of_lists(trained, tmp_path):
    config = trained.config
    for split in ("train", "valid", "test"):
        table = pq.read_table(Path(config.data.root) / split)
        at = table.schema.get_field_index("candidates")
        item = pa.list_(pa.field("item", table.schema.field(at).type.value_type))
        (tmp_path / split).mkdir()
        pq.write_table(
            table.set_column(at, "candidates", table["candidates"].cast(item)),
            tmp_path / split / "part.parquet",
            use_compliant_nested_type=False,
        )
    data = config.data.model_copy(update={"root": str(tmp_path)})
    assert summarise(config.model_copy(update={"data": data})) == summarise(config)


def test_a_split_that_is_gone_is_left_out_with_a_word(trained):
    config = trained.config
    data = config.data.model_copy(update={"valid": "gone"})
    found, notes = summarise(config.model_copy(update={"data": data}))
    assert set(found) == {"train", "test"}
    assert len(notes) == 1
    assert "data summary without valid: data.valid" in notes[0]


def test_learning_curves_are_those_of_the_log(trained):
    found = learning_curves(trained)
    train, valid = lines_of(trained.path, "train"), lines_of(trained.path, "valid")
    assert [r["step"] for r in found["train"]] == [r["step"] for r in train]
    assert found["train"][3]["cells"] == train[3]["cells"]
    assert [r["epoch"] for r in found["valid"]] == [r["epoch"] for r in valid] == [1, 2]
    loss = valid[0]["surfaces"]["home"]["tasks"]["click"]["logloss"]
    assert found["valid"][0]["surfaces"]["home"]["click"]["logloss"] == loss
    assert found["best_step"] in {r["step"] for r in valid}


def test_long_curves_are_thinned_and_broken_lines_named(trained, tmp_path):
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(trained.path, copy.path)
    cells = [{"home": {"click": float(i)}} for i in range(1000)]
    lines = [
        json.dumps({"event": "train", "step": i, "loss": 1.0, "cells": c})
        for i, c in enumerate(cells)
    ]
    copy.metrics.write_text("\n".join([*lines, '{"event": "tra']))
    found = learning_curves(copy)["train"]
    assert len(found) == POINTS
    assert found[0] == {"step": 4, "loss": 1.0, "cells": {"home": {"click": 2.0}}}
    copy.metrics.write_text("\n".join(["nonsense", *lines]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is not JSON"):
        learning_curves(copy)
    copy.metrics.unlink()
    assert learning_curves(copy) is None

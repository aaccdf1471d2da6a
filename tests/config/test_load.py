"""Reading a configuration: overrides, round trips, and errors that name file, key and fix."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys.config import dump_config, load_config, parse_config
from recsys.errors import UserError
from tests.config.documents import document
from tests.model.requests import random_config


def write(folder: Path, content: str | dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def message_of(changed: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(changed, "c.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("c.yaml: ")
    return message.removeprefix("c.yaml: ")


UNKNOWN = [
    ("trainign", "trainign; did you mean training?"),
    ("data.rot", "data.rot; did you mean root?"),
    ("data.group.usr", "data.group.usr; did you mean user?"),
    ("tables.video.row", "tables.video.row; did you mean rows?"),
    ("features.requests", "features.requests; did you mean request?"),
    (
        "features.request.user_id.requird",
        "features.request.user_id.requird; did you mean required?",
    ),
    (
        "features.candidate.duration.numbr",
        "features.candidate.duration.numbr; did you mean number?",
    ),
    ("features.history.lenght", "features.history.lenght; did you mean length?"),
    (
        "features.history.fields.video_id.poling",
        "features.history.fields.video_id.poling; did you mean pooling?",
    ),
    ("surfaces.main.task", "surfaces.main.task; did you mean tasks?"),
    ("surfaces.main.tower.stam", "surfaces.main.tower.stam; did you mean stem?"),
    ("model.crosing", "model.crosing; did you mean crossing?"),
    ("model.sequence.head", "model.sequence.head; did you mean heads?"),
    ("model.experts.cont", "model.experts.cont; did you mean count?"),
    ("training.sparse.l_r", "training.sparse.l_r; did you mean lr?"),
    (
        "training.early_stopping.patients",
        "training.early_stopping.patients; did you mean patience?",
    ),
    ("sharding.constraints.video.type", "sharding.constraints.video.type; did you mean types?"),
    ("evaluation.groop", "evaluation.groop; did you mean group?"),
    (
        "evaluation.zzz",
        "evaluation.zzz; known: group, keep, hit_at, fields, segments, batch_candidates",
    ),
]


@pytest.mark.parametrize(("path", "expected"), UNKNOWN)
def test_an_unknown_key_names_the_nearest(path: str, expected: str) -> None:
    found = message_of(document((path, 1)))
    assert found.removesuffix(found[found.find(" (and ") :] if " (and " in found else "") == (
        f"unknown key {expected}"
    )


def test_names_that_are_also_keys_do_not_confuse() -> None:
    """A table named `rows`, features named `id` and `number`: these are names where they stand."""
    names = document(
        ("tables.rows", {"rows": 5, "dim": 4}),
        ("features.candidate.id", {"id": "rows"}),
        ("features.candidate.number", {"number": "none"}),
    )
    parse_config(names, "c.yaml")
    names["features"]["candidate"]["id"]["requird"] = True
    assert message_of(names) == (
        "unknown key features.candidate.id.requird; did you mean required?"
    )
    names["features"]["candidate"]["id"] = {"id": "rows"}
    names["tables"]["rows"]["dims"] = 1
    assert message_of(names) == "unknown key tables.rows.dims; did you mean dim?"


def test_a_misspelt_required_key_is_shown_as_misspelt() -> None:
    changed = document(("surfaces", ...), ("surfacs", {}))
    assert message_of(changed) == ("unknown key surfacs; did you mean surfaces? (and 1 more)")


WRONG = [
    ("name", "a b", "name: 'a b': String should match pattern"),
    ("data", ..., "data: missing; add this key"),
    ("data.root", ..., "data.root: missing; add this key"),
    ("tables.video.rows", ..., "tables.video.rows: missing; add this key"),
    ("tables.video.rows", "many", "tables.video.rows: 'many': Input should be a valid integer"),
    ("tables.video.rows", 0, "tables.video.rows: 0: Input should be greater than or equal to 1"),
    ("tables.video.dim", 6, "tables.video.dim: must be a multiple of 4, is 6: use 8"),
    ("tables.video", 5, "tables.video: 5: should be a mapping of keys"),
    ("training", None, "training: None: should be a mapping of keys"),
    ("training.dense.betas", [1.5, 2], "training.dense.betas[0]: 1.5: Input should be less than 1"),
    ("training.dense.lr", float("nan"), "training.dense.lr: nan: Input should be a finite number"),
    ("training.dense.clip_norm", float("inf"), "training.dense.clip_norm: inf: Input should be a"),
    ("surfaces.main.tasks", {"click": -1}, "surfaces.main.tasks.click: -1: Input should be great"),
    ("surfaces.main.tower.stem", [-3], "surfaces.main.tower.stem[0]: -3: Input should be greater"),
    (
        "surfaces.main.tower.branches",
        {"like": [0]},
        "surfaces.main.tower.branches.like[0]: 0: Input should be greater",
    ),
    ("model.experts.hidden", [0, 64], "model.experts.hidden[0]: 0: Input should be greater than"),
    ("evaluation.hit_at", [0], "evaluation.hit_at[0]: 0: Input should be greater than or equal"),
    ("sharding.assumed.ids", {"x": -1}, "sharding.assumed.ids.x: -1: Input should be greater"),
    ("training.dense.betas", [0.9, "x"], "training.dense.betas[1]: 'x': Input should be a valid"),
    ("training.loss", "cells", "training.loss: 'cells': Input should be 'cell' or 'task'"),
    (
        "features.candidate.duration.number",
        "log",
        "features.candidate.duration.number[0]: 'log': Input should be 'none', 'log1p'",
    ),
    (
        "features.candidate.video_id",
        {"table": "video"},
        "features.candidate.video_id: {'table': 'video'}: a feature is {id: TABLE} or "
        "{number: TRANSFORM}",
    ),
    (
        "features.history.fields.video_id.pooling",
        "sum",
        "features.history: field video_id: an event has one id a field; remove `pooling`",
    ),
    (
        "features.history.fields.age.surfaces",
        ["main"],
        "features.history: field age: the history is shared; remove `surfaces`",
    ),
    ("features.history.fields", {}, "features.history.fields: is empty; give at least one"),
    ("surfaces.main.tasks", [], "surfaces.main.tasks: is empty; give at least one"),
    ("surfaces.main.tasks", ..., "surfaces.main.tasks: missing; add this key"),
    ("surfaces.main.weight", -1, "surfaces.main.weight: -1: Input should be greater than or equal"),
    ("surfaces", {}, "surfaces: is empty; give at least one"),
    (
        "surfaces.search.tower.modules.0.class",
        ...,
        "surfaces.search.tower.modules[0].class: missing; add this key",
    ),
    (
        "surfaces.search.tower.modules.0.inputs",
        [],
        "surfaces.search.tower.modules[0].inputs: is empty; give at least one",
    ),
    (
        "surfaces.search.tower.modules",
        5,
        "surfaces.search.tower.modules: 5: Input should be a valid tuple",
    ),
    (
        "sharding.constraints.video.types",
        ["data_parallel"],
        "sharding.constraints.video.types[0]: 'data_parallel': Input should be 'table_wise'",
    ),
    (
        "model.sequence",
        {"dim": 10, "heads": 4},
        "model.sequence: dim 10 is not a multiple of heads 4",
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_a_wrong_value_names_its_key(path: str, value: Any, expected: str) -> None:
    assert message_of(document((path, value))).startswith(expected)


def test_long_values_are_cut_short() -> None:
    found = message_of(document(("tables.video.rows", "x" * 500)))
    assert len(found) < 250


def test_a_key_that_is_not_text() -> None:
    changed = document()
    changed["tables"][3] = {"rows": 5, "dim": 4}
    assert message_of(changed) == "tables.3: 3: Input should be a valid string"


@pytest.mark.parametrize("content", ["- a\n- b\n", "hello\n", "a: [1\n", "a: 1\na: 2\n", "\x00"])
def test_what_is_not_a_mapping_of_keys(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        load_config(path, ["training.seed=1"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_duplicate_key_is_refused_with_its_line(tmp_path: Path) -> None:
    text = yaml.safe_dump(document()) + "name: again\n"
    with pytest.raises(UserError, match=r"not readable as YAML: .*duplicate key name.*line \d+"):
        load_config(write(tmp_path, text))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file; give the path of a YAML"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder; give the path of a YAML"):
        load_config(tmp_path)
    with pytest.raises(UserError, match=r"config.yaml: data: missing; add this key \(and "):
        load_config(write(tmp_path, "name: x\n"))


def test_an_unknown_interpolation_is_refused(tmp_path: Path) -> None:
    changed = document(("data.root", "${no.such.key}"))
    with pytest.raises(UserError, match=r"config.yaml: .*no\.such\.key"):
        load_config(write(tmp_path, changed))


def test_overrides_are_applied_in_order_and_parsed_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, document())
    config = load_config(
        path,
        [
            "training.epochs=3",
            "training.dense.lr=1e-2",
            "training.epochs=4",
            "data.root=s3://bucket/a=b",
            "model.experts.hidden=[16, 8]",
            "model.crossing=null",
            "training.checkpoint={every_steps: 5}",
            "surfaces.main.tasks={click: 3}",
            "surfaces.main.tower.branches={}",
            "surfaces.search.tower.modules[0].rank=7",
        ],
    )
    assert config.training.epochs == 4
    assert config.training.dense.lr == 0.01
    assert config.data.root == "s3://bucket/a=b"
    assert config.model.experts.hidden == (16, 8)
    assert config.model.crossing is None
    assert config.training.checkpoint.every_steps == 5
    assert config.surfaces["main"].tasks == {"click": 3.0}
    assert config.surfaces["search"].tower.modules[0].arguments == {"rank": 7}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs", "--set training.epochs: write it as key.path=value"),
        ("=3", "--set =3: write it as key.path=value"),
        ("training.epochs=[1", "--set training.epochs=[1: "),
        ("surfaces.search.tower.modules.x=1", "--set surfaces.search.tower.modules.x=1: "),
        ("surfaces.search.tower.modules[5].rank=1", "--set surfaces.search.tower.modules[5]"),
        ("name.x=1", "name: {'x': 1}: Input should be a valid string"),
        ("training.epoch=3", "unknown key training.epoch; did you mean epochs?"),
        ("training.epochs=many", "training.epochs: 'many': Input should be a valid integer"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, document()), [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_a_dumped_configuration_loads_as_itself(tmp_path: Path, seed: int) -> None:
    for config in (random_config(seed), parse_config(document(), "c.yaml")):
        path = write(tmp_path, dump_config(config))
        again = load_config(path)
        assert again == config
        assert dump_config(again) == dump_config(config)
        assert list(again.surfaces) == list(config.surfaces)
        assert list(again.tables) == list(config.tables)


def test_a_feature_and_its_table_can_be_left_out_by_null(tmp_path: Path) -> None:
    path = write(tmp_path, document())
    config = load_config(path, ["features.request.user_id=null", "tables.user=null"])
    assert "user_id" not in config.features.request
    assert "user" not in config.tables
    with pytest.raises(UserError, match=r"tables\.user: no feature uses this table"):
        load_config(path, ["features.request.user_id=null"])


def test_nothing_changes_after_loading() -> None:
    config = parse_config(document(), "c.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 5  # type: ignore[misc]


def test_configurations_are_checked_without_torch() -> None:
    program = (
        "import sys, recsys.config; "
        "print(sorted({'torch', 'torchrec', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=str)
def test_shipped_configurations_load(path: Path) -> None:
    load_config(path)

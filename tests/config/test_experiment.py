"""What must hold across the sections of a configuration."""

from typing import Any

import pytest

from recsys.config import parse_config
from recsys.config.names import OF_MODULES
from recsys.errors import UserError
from tests.config.documents import document

MODULE = "surfaces.search.tower.modules.0.inputs"
INPUTS = ["query", "match", "video_id"]

FAULTS: list[tuple[list[tuple[str, Any]], str]] = [
    ([("data.axis", "time")], "data.axis: time is a column of its own; name another"),
    (
        [("data.axis", "tenant"), ("features.request.tenant", {"number": "none"})],
        "features.request.tenant: tenant is a reserved name; rename the column",
    ),
    (
        [("data.train", ["train", "valid"])],
        "data.train: valid has rows of the valid split, which training.early_stopping looks at, by "
        "auc; set training.early_stopping.monitor: none",
    ),
    ([("data.train", "valid")], "data.train: valid has rows of the valid split, which "),
    (
        [("data.train", ["train", "test"])],
        "data.train: test has rows of the test split; leave it out",
    ),
    ([("data.train", "test")], "data.train: test has rows of the test split"),
    ([("data.train", ["test"])], "data.train: test has rows of the test split"),
    ([("data.train", ["train", "./test"])], "data.train: ./test has rows of the test split"),
    ([("data.train", "../small/test/")], "data.train: ../small/test/ has rows of the test split"),
    ([("data.train", ".")], "data.train: . has rows of the test split"),
    ([("data.test", "train/last")], "data.train: train has rows of the test split"),
    (
        [("data.train", ["train", "train"])],
        "data.train: ['train', 'train'] names a folder twice; name each once",
    ),
    ([("data.train", ["train", "train/"])], "data.train: ['train', 'train/'] names a folder twice"),
    (
        [("tables", {"items": {"rows": 5, "dim": 4}})],
        "tables.items: a table cannot be called items; write items_table",
    ),
    ([("surfaces", {})], "surfaces: is empty; give at least one"),
    ([("surfaces", {"": {"tasks": ["click"]}})], "surfaces.: a name is empty; give it one"),
    (
        [("surfaces", {"../eu": {"tasks": ["click"]}})],
        "surfaces.../eu: the name '../eu' is a folder's or a file's too; write it without a dot at "
        'its beginning, / \\ " and control characters',
    ),
    (
        [("surfaces.main.tasks", ["buy.fast"])],
        "surfaces.main.tasks.buy.fast: the name buy.fast has a dot; write buy_fast",
    ),
    ([("data.train", [])], "data.train: is empty; name at least one folder"),
    (
        [("data.fallback", "mian")],
        "data.fallback: no surface mian; did you mean main?",
    ),
    (
        [("surfaces.small", {"tasks": ["click"], "tower_of": "mian"})],
        "surfaces.small.tower_of: mian is no surface with a tower; did you mean main?",
    ),
    (
        [
            ("surfaces.small", {"tasks": ["click"], "tower_of": "main"}),
            ("surfaces.tiny", {"tasks": ["click"], "tower_of": "small"}),
        ],
        "surfaces.tiny.tower_of: small is no surface with a tower; known: main, search",
    ),
    (
        [("surfaces.small", {"tasks": ["buy"], "tower_of": "main"})],
        "surfaces.small.tasks: buy is no task of main, whose tower it shares; "
        "its tasks: click, like",
    ),
    (
        [("surfaces.small", {"tasks": ["click"], "tower_of": "main", "tower": {"stem": [4]}})],
        "surfaces.small: has both tower and tower_of; remove one of them",
    ),
    (
        [("surfaces.small", {"tasks": ["click"], "tower_of": "search"})],
        "surfaces.search.tower.modules[0].inputs: query exists on search only, not on small",
    ),
    (
        [
            ("surfaces.small", {"tasks": ["click"], "tower_of": "main"}),
            ("data.surfaces", ["small", "search"]),
        ],
        "data.surfaces: small shares the tower of main; add main",
    ),
    (
        [("features.candidate.video_id", {"id": "vidoe"})],
        "features.candidate.video_id: no table vidoe; did you mean video?",
    ),
    (
        [("tables.extra", {"rows": 5, "dim": 4})],
        "tables.extra: no feature uses this table; remove it",
    ),
    (
        [("features.candidate.user_id", {"id": "user"})],
        "features: two features are named user_id, in request and in candidate: rename one column",
    ),
    (
        [("features.candidate.match.surfaces", ["serch"])],
        "features.candidate.match: no surface serch; did you mean search?",
    ),
    (
        [("features.request.surface", {"number": "none"})],
        "features.request.surface: surface is a reserved name; rename the column",
    ),
    (
        [("features.candidate.trunk", {"number": "none"})],
        "features.candidate.trunk: trunk is a reserved name; rename the column",
    ),
    (
        [("features.candidate.click", {"number": "none"})],
        "features.candidate.click: click is a task's label and may not be an input",
    ),
    (
        [("evaluation.keep", ["user_id", "candidate"])],
        "evaluation.keep: candidate: the predictions table has a column of that name, with other "
        "contents; rename yours",
    ),
    (
        [("surfaces.main.negative_sampling", {"clik": 0.1})],
        "surfaces.main.negative_sampling.clik: not a task of this surface; did you mean click?",
    ),
    (
        [("model.gates.ppnet", ["usr_id"])],
        "model.gates.ppnet: usr_id is no id feature of all surfaces; did you mean user_id?",
    ),
    (
        [("model.towers", "star"), ("surfaces.search.tower.stem", [9])],
        "surfaces.search.tower.stem: [9], but [8] on main; with model.towers: star all stems have "
        "the same widths",
    ),
    (
        [("evaluation.keep", ["click"])],
        "evaluation.keep: click: the predictions table has a column of that name, with other "
        "contents; rename yours",
    ),
    (
        [("features.candidate", {}), (MODULE, ["query"])],
        "features.candidate: no feature; a candidate needs at least one",
    ),
    (
        [("surfaces.main.tower.branches", {"lik": [4]})],
        "surfaces.main.tower.branches.lik: not a task of this surface; did you mean like?",
    ),
    (
        [(MODULE, [*INPUTS, "qury"])],
        "surfaces.search.tower.modules[0].inputs: no feature qury; did you mean query?",
    ),
    (
        [("surfaces.main.tower.modules", [{"class": "mlp", "inputs": ["days", "match"]}])],
        "surfaces.main.tower.modules[0].inputs: match exists on search only, not on main",
    ),
    (
        [(MODULE, [*INPUTS, "history"]), ("model.sequence", None)],
        "surfaces.search.tower.modules[0].inputs: history needs features.history and "
        "model.sequence",
    ),
    (
        [(MODULE, ["query", "video_id"])],
        "surfaces.search: nothing reads match, a feature of this surface only; name it in "
        "surfaces.search.tower.modules, or drop `surfaces` from the feature so that the trunk "
        "reads it",
    ),
    (
        [("features.candidate.match.surfaces", ["search", "main"])],
        "surfaces.main: nothing reads match, a feature of this surface only",
    ),
    (
        [("model.towers", "shared")],
        "surfaces.search.tower.modules: impossible with model.towers: shared",
    ),
    (
        [("sharding.constraints.vidio", {"types": ["row_wise"]})],
        "sharding.constraints.vidio: no such table; did you mean video?",
    ),
    (
        [("data.surfaces", ["mian"])],
        "data.surfaces: no surface mian; did you mean main?",
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected"), FAULTS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_faults_name_the_key_and_the_fix(changes: list[tuple[str, Any]], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(document(*changes), "c.yaml")
    assert str(caught.value).startswith(f"c.yaml: {expected}")


def test_tasks_are_those_of_all_surfaces_once_in_order() -> None:
    config = parse_config(document(("surfaces.search.tasks", ["buy", "click"])), "c.yaml")
    assert config.tasks == ("click", "like", "buy")


def test_a_list_of_tasks_means_weight_one() -> None:
    config = parse_config(document(), "c.yaml")
    assert config.surfaces["main"].tasks == {"click": 1.0, "like": 1.0}
    assert config.surfaces["search"].tasks == {"click": 2.0}


def test_folders_whose_names_begin_alike_are_others() -> None:
    train = ["train", "train-more", "test-not"]
    config = parse_config(document(("data.train", train)), "c.yaml")
    assert config.data.folders("train") == tuple(train)


def test_names_that_tables_may_not_have() -> None:
    from torch import nn

    own = {name for name in dir(nn.ModuleDict()) if not name.startswith("_")}
    assert own <= OF_MODULES


def test_active_surfaces_are_those_chosen() -> None:
    everything = parse_config(document(), "c.yaml")
    assert list(everything.active_surfaces) == ["main", "search"]
    one = parse_config(document(("data.surfaces", ["search"])), "c.yaml")
    assert list(one.active_surfaces) == ["search"]
    assert one.tasks == ("click",)


def test_a_name_in_the_history_may_be_that_of_a_candidate_feature() -> None:
    config = parse_config(document(), "c.yaml")
    assert config.features.history is not None
    assert "video_id" in config.features.history.fields
    assert "video_id" in config.features.candidate

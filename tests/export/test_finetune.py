"""Fine-tuning of exports: what moves, what stays, what is written."""

import shutil
from pathlib import Path

import pytest
import torch

from recsys.config import load_config
from recsys.data.recipes.simulate import SimulateOptions, simulate
from recsys.data.splits import open_split
from recsys.errors import RunError, UserError
from recsys.export.artefact import CONFIG, Artefact
from recsys.export.export import export
from recsys.export.finetune import find_artefact, finetune, grown_model, grown_statistics, mean_ne
from recsys.run_directory import RunDirectory
from tests.export.test_export import tree

FAST = ["export.finetune.epochs=1", "export.candidates=2000", "export.limits.auc=1"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of the same users and items after their tastes have moved."""
    folder = tmp_path_factory.mktemp("fresh") / "log"
    simulate(folder, SimulateOptions(requests=600, users=30, candidates=4, drift=0.5))
    return str(folder)


def weights(artefact: Artefact) -> dict[str, torch.Tensor]:
    return artefact.model().state_dict()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_it_lowers_ne_and_touches_nothing_else(
    run: RunDirectory, exports: dict[str, Artefact], fresh: str, tmp_path: Path
):
    # The joint run is gone: all that is left are the exports.
    out = tmp_path / "exports"
    shutil.copytree(exports["home"].path.parents[1], out)
    parent = Artefact(out / "search" / exports["search"].version)
    before, of_run = tree(out), tree(run.path)
    found = finetune(parent, fresh, overrides=["export.limits.auc=1"])
    assert found.written and found.path.parent == out / "search"
    tuned = found.manifest["finetune"]
    assert tuned["valid_ne"]["after"] < tuned["valid_ne"]["before"]
    assert mean_ne(tuned["after"]) < mean_ne(tuned["before"])
    assert found.manifest["parent"]["version"] == parent.version
    assert found.manifest["lineage"] == [parent.version]
    assert found.manifest["source"] == parent.manifest["source"]
    # Every other artefact is there to the byte, and the run is.
    after = tree(out)
    assert {name: after[name] for name in before} == before
    assert tree(run.path) == of_run
    assert moved(weights(parent), weights(Artefact(found.path))) == {
        name
        for name in weights(parent)
        if name.startswith(("towers.", "calibrators.")) and "numbers" not in name
    } | {"lookup.collections.request_bags.embedding_bags.query.weight"}


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        ("trunk_top", ("towers.", "trunk.crossing.", "trunk.experts.", "lookup.")),
        ("all", ("towers.", "trunk.", "lookup.")),
    ],
)
def test_modes_train_what_they_say(
    exports: dict[str, Artefact], fresh: str, tmp_path: Path, mode: str, parts: tuple[str, ...]
):
    parent = exports["home"]
    found = finetune(parent, fresh, tmp_path, [*FAST, f"export.finetune.mode={mode}"])
    changed = moved(weights(parent), weights(Artefact(found.path)))
    # The calibrator follows its tower in every mode.
    assert all(name.startswith((*parts, "calibrators.")) for name in changed)
    expected = {"trunk_top": {"towers.", "trunk."}, "all": set(parts)}[mode] | {"calibrators."}
    assert {name.partition(".")[0] + "." for name in changed} == expected
    assert ("trunk.history_encoder.position" in changed) == (mode == "all")


def test_the_penalty_keeps_it_near(exports: dict[str, Artefact], fresh: str, tmp_path: Path):
    def distance(l2: float) -> float:
        found = finetune(
            exports["home"],
            fresh,
            tmp_path / str(l2),
            [*FAST, "export.finetune.mode=all", f"export.finetune.l2={l2}"],
        )
        old, new = weights(exports["home"]), weights(Artefact(found.path))
        return sum(float((old[n] - new[n]).square().sum()) for n in old)

    assert distance(30.0) < 0.8 * distance(0.0)


MODULE = "surfaces.home.tower.modules=[{class: mlp, inputs: [mood, item_id, trunk], hidden: [4]}]"
FEATURE = "features.request.mood={id: mood, surfaces: [home]}"
TABLE = "tables.mood={rows: 4, dim: 4, encode: vocab}"


def with_mood(source: str, target: Path) -> str:
    """A log with a column more, of strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "valid", "test"):
        (target / split).mkdir(parents=True)
        table = pq.read_table(Path(source) / split)
        mood = pa.array(["good" if i % 3 else "bad" for i in range(len(table))])
        pq.write_table(table.append_column("mood", mood), target / split / "part-0.parquet")
    return str(target)


def test_a_module_and_a_feature_of_its_own(
    exports: dict[str, Artefact], fresh: str, tmp_path: Path
):
    data = with_mood(fresh, tmp_path / "log")
    parent, grown = exports["home"], [TABLE, FEATURE, MODULE]
    config = load_config(parent.path / CONFIG, [f"data.root={data}", *grown])
    statistics = grown_statistics(config, parent.statistics, open_split(config, "train"))
    assert statistics.vocabularies["mood"].ids.to_pylist() == ["good", "bad"]
    assert statistics.vocabularies["country"] is parent.statistics.vocabularies["country"]
    # Nothing is predicted otherwise before it is trained.
    model = grown_model(config, parent, statistics)
    old = weights(parent)
    assert not moved(old, {n: v for n, v in model.state_dict().items() if n in old} | {
        n: v for n, v in old.items() if n not in model.state_dict()
    })  # fmt: skip
    assert not model.towers["home"].tower.fusions[0].project.weight.any()
    found = finetune(parent, data, tmp_path / "out", [*FAST, *grown])
    version = Artefact(found.path)
    columns = {each["column"] for each in version.manifest["schema"]["features"]}
    assert "mood" in columns
    assert "mood" not in {e["column"] for e in parent.manifest["schema"]["features"]}


def test_the_trunk_may_not_change(exports: dict[str, Artefact], fresh: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"trunk\..*only the surface's tower may change"):
        finetune(exports["home"], fresh, tmp_path, ["model.projection.width=24"])
    with pytest.raises(UserError, match=r"surfaces"):
        finetune(exports["home"], fresh, tmp_path, ["surfaces={a: {tasks: [click]}}"])
    assert not any(tmp_path.iterdir())


def test_no_better_epoch_writes_nothing(exports: dict[str, Artefact], fresh: str, tmp_path: Path):
    with pytest.raises(RunError, match=r"no epoch was better than NE .* nothing was written"):
        finetune(exports["home"], fresh, tmp_path, [*FAST, "export.finetune.lr=10"])
    assert not any(tmp_path.iterdir())


def test_the_newest_export_of_a_run(
    run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    with pytest.raises(UserError, match="no whole export of surface home"):
        find_artefact(copy, "home")
    path = export(RunDirectory(copy), "home").path
    assert find_artefact(copy, "home").path == path
    damaged = shutil.copytree(path, path.with_name("damaged"))
    (damaged / "model.pt2").unlink()
    assert find_artefact(copy, "home").path == path
    assert "passed over" in caplog.text and "model.pt2: missing" in caplog.text

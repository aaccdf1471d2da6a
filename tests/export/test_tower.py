"""A recipe that replaces the tower by a fine-tuned one."""

import shutil
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from recsys.config.export import Recipe
from recsys.data.recipes.simulate import SimulateOptions, simulate
from recsys.errors import UserError
from recsys.export.artefact import Artefact
from recsys.export.export import export, export_surfaces, load_recipe
from recsys.export.finetune import finetune
from recsys.export.predict import predict
from recsys.rollout.drift import drift
from recsys.run_directory import RunDirectory
from tests.export.test_finetune import FAST, FEATURE, MODULE, TABLE, with_mood


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh logs with a column more."""
    folder = tmp_path_factory.mktemp("fresh")
    simulate(folder / "log", SimulateOptions(requests=600, users=30, candidates=4, drift=0.5))
    return Path(with_mood(str(folder / "log"), folder / "data"))


@pytest.fixture(scope="module")
def tuned(
    exports: dict[str, Artefact], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Artefact:
    """A version of home with a feature, a table and a module more."""
    out = tmp_path_factory.mktemp("tuned")
    return Artefact(finetune(exports["home"], str(data), out, [*FAST, TABLE, FEATURE, MODULE]).path)


def scores(artefact: Artefact, table: str, out: Path) -> dict[str, list[float]]:
    predict(artefact, table, out, show=False)
    found = ds.dataset(out).to_table()
    return {task: found[task].to_pylist() for task in artefact.config.tasks}


def test_its_scores_are_those_of_the_tuned_tower(
    run: RunDirectory, exports: dict[str, Artefact], tuned: Artefact, data: Path, tmp_path: Path
):
    table, file = str(data / "test"), tmp_path / "recipe.yaml"
    file.write_text(f"tower: {tuned.path}\n")
    [summary] = export_surfaces(
        run.path, ["home"], tmp_path / "out", file, None, None, table=table, overrides=FAST[1:]
    )
    found = Artefact(Path(summary["path"]))
    # The trunk is the run's, from which the tower was tuned: all is as in the tuned version.
    assert scores(found, table, tmp_path / "a") == scores(tuned, table, tmp_path / "b")
    assert scores(found, table, tmp_path / "c") != scores(exports["home"], table, tmp_path / "d")
    assert found.manifest["parity"]["tasks"]["click"]["probability"] <= 1e-6
    assert found.manifest["recipe"]["tower"] == f"home/{tuned.version}"
    assert found.manifest["tower"] == {
        "version": tuned.version,
        "sha256": tuned.manifest["sha256"],
    }
    assert "mood" in {each["column"] for each in found.manifest["schema"]["features"]}
    assert found.statistics.vocabularies["mood"].ids.to_pylist() == ["good", "bad"]
    assert found.version not in (tuned.version, exports["home"].version)
    # The artefact is a recipe: the tower is found where exports are.
    shutil.copytree(tuned.path, tmp_path / "out" / "home" / tuned.version)
    recipe = load_recipe(found.path)
    again = export(run, "home", tmp_path / "out", recipe, table=table, overrides=FAST[1:])
    assert again.path == found.path and not again.written
    assert drift(found, table, run.path)["trunk"] == 0


def test_one_head_of_it(run: RunDirectory, tuned: Artefact, data: Path, tmp_path: Path):
    recipe = Recipe(tower=str(tuned.path), tasks=("like",))
    table = str(data / "test")
    found = Artefact(export(run, "home", tmp_path, recipe, table, FAST[1:]).path)
    expected = scores(tuned, table, tmp_path / "b")["like"]
    assert scores(found, table, tmp_path / "a")["like"] == pytest.approx(expected, abs=1e-6)


def test_a_tower_that_cannot_be_taken(
    run: RunDirectory, exports: dict[str, Artefact], tuned: Artefact, tmp_path: Path
):
    for name, message in (
        ("nowhere", f"recipe: tower: nowhere is no export, nor is {tmp_path}/nowhere"),
        (str(exports["search"].path), "is an export of surface search, not of home"),
        (str(tuned.path), "no column mood"),  # the run's own test split does not have it
    ):
        with pytest.raises(UserError, match=message):
            export(run, "home", tmp_path, Recipe(tower=name))
    with pytest.raises(UserError, match="--tasks buy: not a task of surface home"):
        export(run, "home", tmp_path, Recipe(tower=str(tuned.path), tasks=("buy",)))
    assert not any(tmp_path.iterdir())


def test_a_tower_for_another_trunk(run: RunDirectory, exports: dict[str, Artefact], tmp_path: Path):
    from recsys.config import load_config
    from recsys.training.train import train
    from tests.training.conftest import SMALL

    wider = [*SMALL, "model.experts.hidden=[12]"]
    train(load_config(run.config_file, wider), tmp_path / "wider")
    recipe = Recipe(tower=str(exports["home"].path))
    with pytest.raises(UserError, match=r"recipe: tower: does not fit the run's trunk: .*stem"):
        export(RunDirectory(tmp_path / "wider"), "home", tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()

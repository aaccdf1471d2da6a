"""Exports of a trained run: parity, what is in the folder, what fails and leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recsys.config.export import Precision, Recipe
from recsys.errors import UserError
from recsys.evaluation.score import Scorer
from recsys.export import view
from recsys.export.artefact import Artefact
from recsys.export.export import export, export_surfaces, load_recipe
from recsys.export.program import load_program
from recsys.run_directory import RunDirectory
from tests.small_disk import SmallDisk

# What a server has: torch, and nothing of the project's own libraries.
ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"recsys", "torchrec", "fbgemm_gpu", "pyarrow", "safetensors"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
folder = sys.argv[1]
example = json.load(open(folder + "/example.json"))
def tensor(x):
    data = [float("nan") if v is None else v for v in x["data"]]
    return torch.tensor(data, dtype=getattr(torch, x["dtype"])).reshape(x["shape"])
program = torch.export.load(folder + "/model.pt2").module()
found = program(**{name: tensor(x) for name, x in example["inputs"].items()})
assert found.keys() == example["outputs"].keys()
for name, x in example["outputs"].items():
    assert torch.equal(found[name], tensor(x)), name
assert not {"recsys", "torchrec", "fbgemm_gpu"} & set(sys.modules)
print("equal")
"""


# On a few rows of a model that has hardly learned, a metric moves by more than on real days.
LOOSE = ["export.limits.auc=0.01", "export.limits.ne=0.01"]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("surface", ["home", "search", "related"])
def test_parity_is_measured_and_stored(exports: dict[str, Artefact], surface: str):
    manifest = exports[surface].manifest
    assert manifest["parity"]["candidates"] > 50
    for task, found in manifest["parity"]["tasks"].items():
        assert found["probability"] <= 1e-6
        assert manifest["parity"]["joint"]["tasks"][task]["probability"] <= 1e-6
        assert abs(found["auc"]) < 1e-4
        assert manifest["metrics"][task]["rows"] > 0
        assert 0 < manifest["metrics"][task]["auc"] < 1


def test_the_stored_metrics_are_those_of_the_runs_own_evaluation(
    run: RunDirectory, exports: dict[str, Artefact]
):
    scorer = Scorer(run, "search")
    parts = [
        (logits.probabilities().numpy(), batch.labels.numpy())
        for batch, logits in scorer.scores("test", labels=True)
    ]
    probability, label = (np.concatenate(each) for each in zip(*parts, strict=True))
    task = scorer.layout.tasks.index("click")
    from recsys.evaluation.metrics import auc, normalized_entropy

    stored = exports["search"].manifest["metrics"]["click"]
    assert stored["rows"] == len(label)
    assert stored["auc"] == pytest.approx(auc(probability[:, task], label[:, task]), abs=1e-4)
    assert stored["ne"] == pytest.approx(
        normalized_entropy(probability[:, task], label[:, task]), abs=1e-6
    )


def test_it_loads_where_recsys_is_not_importable(exports: dict[str, Artefact], tmp_path: Path):
    folder = exports["search"].path
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def test_the_example_is_a_request_of_the_table(exports: dict[str, Artefact]):
    example = json.loads((exports["related"].path / "example.json").read_text())
    request = example["request"]
    assert request["surface"] == "related"
    assert len(request["candidates"]) == example["inputs"]["candidate_lengths"]["data"][0]
    assert len(request["history"]) == example["inputs"]["history_lengths"]["data"][0]
    items = [candidate["item_id"] + 1 for candidate in request["candidates"]]
    assert example["inputs"]["candidate_item_id"]["data"] == items


def test_the_manifest_is_complete(exports: dict[str, Artefact], run: RunDirectory):
    manifest = exports["search"].manifest
    assert manifest["tasks"] == ["click", "purchase"]
    assert manifest["parent"] is None
    source = manifest["source"]
    assert source["run"] == run.path.name and source["step"] > 0
    assert source["data"]["from"] < source["data"]["to"]
    assert source["data"]["requests"] > 0
    inputs = {each["name"] for each in manifest["schema"]["inputs"]}
    for feature in manifest["schema"]["features"]:
        assert feature["input"] in inputs
    columns = {feature["column"] for feature in manifest["schema"]["features"]}
    assert {"query", "candidates.query_match", "history.action"} <= columns
    assert not {"seed_item", "seed_category"} & columns
    for name, table in manifest["schema"]["tables"].items():
        assert table["precision"] == "fp32" == manifest["precision"][name]
        assert table["golden"]
    assert {"model.pt2", "weights.safetensors", "config.yaml", "example.json"} <= set(
        manifest["files"]
    )


def test_nothing_in_the_artefact_names_this_machine(exports: dict[str, Artefact]):
    here = str(Path(__file__).parents[2]).encode()
    folder = exports["home"].path
    for name, content in tree(folder).items():
        if name != "config.yaml":  # it keeps data.root
            assert here not in content, name


def test_there_is_no_pickle_in_it(exports: dict[str, Artefact]):
    import zipfile

    for artefact in exports.values():
        with zipfile.ZipFile(artefact.path / "model.pt2") as archive:
            assert not [n for n in archive.namelist() if n.endswith(".pkl")]
            for info in archive.infolist():
                assert not archive.read(info).startswith(b"PK"), info.filename
                if info.filename.endswith("sample_inputs/model.pt"):
                    assert info.file_size == 0


def test_a_vocabulary_has_its_own_rows_and_no_more(exports: dict[str, Artefact], run: RunDirectory):
    artefact = exports["home"]
    known = len(artefact.statistics.vocabularies["country"].ids)
    assert artefact.config.tables["country"].rows == known <= run.config.tables["country"].rows
    weight = artefact.model().lookup.tables["country"].weight
    assert weight.shape[0] == known + 1


def test_the_same_step_again_writes_nothing(
    run: RunDirectory, exports: dict[str, Artefact], capsys: pytest.CaptureFixture[str]
):
    out = exports["home"].path.parents[1]
    before = tree(out)
    again = export(run, "home", out)
    assert not again.written
    assert again.path == exports["home"].path
    assert tree(out) == before


def test_what_its_readers_go_by_makes_another_version(
    run: RunDirectory, exports: dict[str, Artefact], tmp_path: Path
):
    shutil.copytree(exports["home"].path.parent, tmp_path / "home")
    found = export(run, "home", tmp_path, overrides=["data.fallback=home", "export.drift.psi=0.3"])
    assert found.written and found.path.name != exports["home"].version
    config = Artefact(found.path).config
    assert (config.data.fallback, config.export.drift.psi) == ("home", 0.3)
    assert found.manifest["parity"] == exports["home"].manifest["parity"]


def test_a_version_that_is_there_is_measured_on_the_rows_given(
    run: RunDirectory, exports: dict[str, Artefact], simulated_log: Path
):
    out, table = exports["home"].path.parents[1], str(simulated_log / "valid")
    before = tree(out)
    again = export(run, "home", out, table=table)
    assert not again.written and tree(out) == before
    stored = exports["home"].manifest
    assert again.manifest["parity"]["rows"] == table != stored["parity"]["rows"]
    assert again.manifest["metrics"] != stored["metrics"]
    with pytest.raises(UserError, match=r"export\.limits\.probability: surface home"):
        export(run, "home", out, overrides=["export.limits.probability=1e-30"])
    assert tree(out) == before


def test_the_run_is_not_touched(run: RunDirectory, tmp_path: Path):
    before = tree(run.path)
    export(run, "home", tmp_path)
    assert tree(run.path) == before


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_quantised_tables(
    run: RunDirectory, exports: dict[str, Artefact], tmp_path: Path, precision: Precision
):
    recipe = Recipe(embeddings=precision)
    found = export(run, "home", tmp_path, recipe, overrides=LOOSE)
    assert found.path.name != exports["home"].version
    parity = found.manifest["parity"]["tasks"]["click"]
    assert 0 < parity["probability"] < 0.01
    assert set(found.manifest["precision"].values()) == {precision}
    program = load_program(found.path / "model.pt2")
    dtype = {"fp16": "torch.float16", "int8": "torch.uint8"}[precision]
    assert dtype in {str(each.dtype) for each in program.state_dict().values()}


def test_a_recipe_is_recorded(run: RunDirectory, tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("tasks: [click]\nembeddings: fp16\ntables: {item: int8}\nhistory_length: 7\n")
    [found] = export_surfaces(run.path, ["search"], tmp_path / "out", file, None, None)
    artefact = Artefact(Path(found["path"]))
    assert found["tasks"] == ["click"]
    assert artefact.config.features.history.length == 7
    assert artefact.manifest["precision"]["item"] == "int8"
    assert artefact.manifest["precision"]["category"] == "fp16"
    assert artefact.recipe == load_recipe(file)
    # An export is a recipe for the next one.
    assert load_recipe(artefact.path) == artefact.recipe


def test_past_a_limit_nothing_is_written(run: RunDirectory, tmp_path: Path):
    recipe = Recipe(embeddings="int8")
    with pytest.raises(UserError, match=r"export\.limits\.\w+: surface home, task \w+ is off"):
        export(run, "home", tmp_path, recipe, overrides=["export.limits.ne=1e-12"])
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("embeddings", ["fp32", "int8"])
def test_a_wrong_cut_of_the_joint_model_is_not_written(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embeddings: Precision
):
    """The program equals its view then, so that only the joint model can tell."""
    right = view._rows_of_tasks

    def wrong(gate: torch.Tensor, tasks: int, rows: list[int]) -> torch.Tensor:
        return right(gate, tasks, rows[::-1])

    monkeypatch.setattr(view, "_rows_of_tasks", wrong)
    recipe = Recipe(embeddings=embeddings)
    with pytest.raises(UserError, match=r"export\.limits\.probability: surface home"):
        export(run, "home", tmp_path, recipe, overrides=LOOSE)
    assert not list(tmp_path.rglob("*.*"))


def test_a_table_without_the_columns_of_other_surfaces(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
):
    table = tmp_path / "rows.parquet"
    whole = pq.read_table(simulated_log / "test")
    pq.write_table(whole.drop_columns(["seed_item", "seed_category"]), table)
    found = export(run, "home", tmp_path / "out", table=str(table))
    assert found.manifest["parity"]["joint"] is None
    assert found.manifest["parity"]["tasks"]["click"]["probability"] <= 1e-6


def test_unknown_names_list_the_known_ones(run: RunDirectory, tmp_path: Path):
    with pytest.raises(UserError, match=r"--surface serach: .* home, search, related"):
        export(run, "serach", tmp_path)
    with pytest.raises(UserError, match=r"--tasks like: .*search; its tasks: click, purchase"):
        export(run, "search", tmp_path, Recipe(tasks=("like",)))
    with pytest.raises(UserError, match=r"tables\.query: surface home reads no such table"):
        export(run, "home", tmp_path, Recipe(tables={"query": "int8"}))
    with pytest.raises(UserError, match="history_length: 51 is longer than the model's 50"):
        export(run, "home", tmp_path, Recipe(history_length=51))
    with pytest.raises(UserError, match=r"--set model.experts.count=9: an export may change"):
        export(run, "home", tmp_path, overrides=["model.experts.count=9"])
    assert not any(tmp_path.iterdir())


def test_a_wrong_recipe_is_one_line(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    for text, message in (
        ("task: [click]", "unknown key task; did you mean tasks"),
        ("embeddings: int4", "embeddings: 'int4'"),
        ("[1, 2", "not readable as a recipe"),
        ("tower: '${'", "not readable as a recipe"),
        ("tower: ${nowhere}", "not readable as a recipe"),
        ("- 1", "is not a mapping of keys"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            load_recipe(file)
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not readable as a recipe"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_run_without_a_finished_checkpoint(run: RunDirectory, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    for marker in copy.rglob("complete.json"):
        marker.unlink()
    with pytest.raises(UserError, match="no complete checkpoint"):
        export(RunDirectory(copy), "home", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_leaves_nothing(run: RunDirectory, small_disk: SmallDisk):
    # The program is written as the last large file; weights alone fit.
    small_disk.resize(400)
    with pytest.raises(UserError, match=r"cannot be written .*free some space") as caught:
        export(run, "home", small_disk.path)
    assert "\n" not in str(caught.value)
    assert not [path for path in small_disk.path.rglob("*") if path.is_file()]

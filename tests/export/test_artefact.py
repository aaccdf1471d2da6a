"""Artefacts that are not what they were, and those of a newer recsys."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from recsys.errors import UserError
from recsys.export.artefact import Artefact
from recsys.export.export import load_recipe
from recsys.export.manifest import sha256_of


@pytest.fixture
def copy(exports: dict[str, Artefact], tmp_path: Path) -> Path:
    """A copy of an artefact, to be damaged."""
    return Path(shutil.copytree(exports["search"].path, tmp_path / "version"))


def test_the_weights_are_the_views(exports: dict[str, Artefact]):
    artefact = exports["search"]
    inputs = json.loads((artefact.path / "example.json").read_text())["inputs"]
    tensors = {
        name: torch.tensor(
            [float("nan") if v is None else v for v in each["data"]],
            dtype=getattr(torch, each["dtype"]),
        ).reshape(each["shape"])
        for name, each in inputs.items()
    }
    with torch.inference_mode():
        outputs = artefact.program(**tensors)
    model = artefact.model()
    lookup = {}
    from recsys.model.lookup import pool

    for column, name, lengths in artefact.signature.columns():
        rows = model.lookup.tables[column.feature.id](tensors[name])
        if lengths is not None:
            rows = pool(rows, tensors[lengths], str(column.feature.pooling))
        lookup[column.key] = rows
    with torch.no_grad():
        logits = model.score(artefact.signature.batch(tensors), lookup)
    for t, task in enumerate(artefact.config.tasks):
        torch.testing.assert_close(outputs[f"logit_{task}"], logits.raw[:, t], rtol=0, atol=1e-6)
        probability = logits.probabilities()[:, t]
        torch.testing.assert_close(outputs[task], probability, rtol=0, atol=1e-6)


def test_the_parents_of_a_path_are_known_however_it_is_written(
    exports: dict[str, Artefact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = exports["search"].path
    (tmp_path / "champion").symlink_to(path)
    for folder, written in (
        (path.parent, path.name),
        (path, "."),
        (tmp_path, "champion"),
    ):
        monkeypatch.chdir(folder)
        assert Artefact(written).path.parents[1] == path.parents[1]
        assert load_recipe(Path(written)) == exports["search"].recipe


@pytest.mark.parametrize(
    "file", ["model.pt2", "weights.safetensors", "config.yaml", "example.json"]
)
def test_a_damaged_file_is_named(copy: Path, file: str):
    path = copy / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{file}: its checksum does not hold"):
        Artefact(copy)


def test_a_missing_file_is_named(copy: Path):
    (copy / "model.pt2").unlink()
    with pytest.raises(UserError, match=r"model\.pt2: missing"):
        Artefact(copy)


def rewrite(folder: Path, signed: bool = True, **changes: object) -> None:
    """Changes keys of a manifest; `signed` with a checksum that holds."""
    path = folder / "manifest.json"
    document = {**json.loads(path.read_text()), **changes}
    if signed:
        document.pop("sha256")
        document["sha256"] = sha256_of(document)
    path.write_text(json.dumps(document))


def test_a_manifest_that_was_edited(copy: Path):
    rewrite(copy, signed=False, surface="home")
    with pytest.raises(UserError, match=r"manifest\.json: its checksum does not hold"):
        Artefact(copy)


def test_a_manifest_of_a_newer_version(copy: Path):
    rewrite(copy, format=2)
    with pytest.raises(UserError, match=r"manifest\.json: has format 2, this recsys reads up to 1"):
        Artefact(copy)


def test_a_broken_manifest(copy: Path):
    (copy / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: broken"):
        Artefact(copy)


def test_a_folder_that_is_no_export(tmp_path: Path):
    with pytest.raises(UserError, match=r"not an export \(no manifest\.json\)"):
        Artefact(tmp_path)

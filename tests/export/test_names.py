"""Surfaces are values of the data: tenants and regions have names that PyTorch's modules refuse."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys.config import Config, load_config
from recsys.evaluation.calibrate import calibrate
from recsys.evaluation.score import evaluate
from recsys.export.export import export
from recsys.run_directory import RunDirectory
from recsys.training.train import train
from tests.training.conftest import SMALL

# A name with a dot, one that is a method of `nn.ModuleDict`, and a keyword of Python.
NAMES = ("acme.com", "items", "in")


@pytest.fixture(scope="module")
def tenants(simulated_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The simulated log with other names for its surfaces."""
    folder = tmp_path_factory.mktemp("tenants")
    text = (simulated_log / "config.yaml").read_text()
    new = dict(zip(yaml.safe_load(text)["surfaces"], NAMES, strict=True))
    for file in simulated_log.glob("*/*.parquet"):
        table = pq.read_table(file)
        column = pa.array([new[name] for name in table["surface"].to_pylist()])
        (folder / file.parent.name).mkdir(exist_ok=True)
        at = table.schema.get_field_index("surface")
        pq.write_table(
            table.set_column(at, "surface", column), folder / file.parent.name / file.name
        )
    document = yaml.safe_load(text)
    document["data"]["root"] = str(folder)
    document["surfaces"] = {new[name]: each for name, each in document["surfaces"].items()}
    for level in ("request", "candidate"):
        for feature in document["features"][level].values():
            if "surfaces" in feature:
                feature["surfaces"] = [new[name] for name in feature["surfaces"]]
    (folder / "config.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return load_config(folder / "config.yaml", SMALL)


def test_surfaces_with_names_of_all_kinds(tenants: Config, tmp_path: Path) -> None:
    train(tenants, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    for name in NAMES:
        made = export(run, name, tmp_path / "exports")
        assert made.path.parent.name == name
    calibrate(run, str(Path(tenants.data.root) / "valid"), None, tmp_path / "calibrated")
    assert set(evaluate(RunDirectory(tmp_path / "calibrated"), "test")["surfaces"]) == set(NAMES)
    again = tenants.training.model_copy(update={"warm_start": str(run.path)})
    train(tenants.model_copy(update={"training": again}), tmp_path / "warm")
    parts = json.loads(RunDirectory(tmp_path / "warm").warm_start.read_text())["parts"]
    assert {each["status"] for each in parts} == {"loaded"}

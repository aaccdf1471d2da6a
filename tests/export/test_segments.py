"""An axis other than the surface: 200 tenants, some without a tower, and one that nobody knew."""

import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray

from recsys.config import load_config
from recsys.data.recipes.simulate import SimulateOptions, simulate
from recsys.errors import UserError
from recsys.evaluation.score import evaluate, load_model
from recsys.evaluation.score import predict as predict_with_run
from recsys.export.artefact import Artefact
from recsys.export.export import export
from recsys.export.predict import predict
from recsys.run_directory import RunDirectory
from recsys.training.train import train
from tests.training.conftest import SMALL

COUNT = 200
TENANTS = [f"tenant_{i:03d}" for i in range(COUNT)]
DEFAULT, OWN, TOWERLESS = TENANTS[0], TENANTS[7], TENANTS[150]
# The first 150 tenants have a tower, the others share that of the default.
TOWERS = 150
LOOSE = ["export.limits.auc=1", "export.limits.ne=1"]


def by_tenant(source: Path, target: Path) -> None:
    """A log of one surface, whose requests are dealt to 200 tenants."""
    target.mkdir(parents=True)
    table = pq.read_table(source)
    tenants = pa.array([TENANTS[i * 37 % COUNT] for i in range(len(table))])
    pq.write_table(table.append_column("tenant", tenants), target / "part-0.parquet")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; `surface` is a column like any other, and read as a feature."""
    folder = tmp_path_factory.mktemp("tenants")
    simulate(folder / "log", SimulateOptions(requests=3000, users=60, candidates=4, surfaces=1))
    for split in ("train", "valid", "test"):
        by_tenant(folder / "log" / split, folder / "tenants" / split)
    document = yaml.safe_load((folder / "log" / "config.yaml").read_text())
    document["data"] = {"root": str(folder / "tenants"), "axis": "tenant", "fallback": DEFAULT}
    document["model"]["calibration"] = {"kind": "platt"}
    document["tables"]["place"] = {"rows": 4, "dim": 4, "encode": "vocab"}
    document["features"]["request"]["surface"] = {"id": "place"}
    [home] = document["surfaces"].values()
    own: dict[str, Any] = {"tasks": home["tasks"], "tower": {"stem": [8]}}
    document["surfaces"] = {
        name: own if i < TOWERS else {"tasks": ["click"], "tower_of": DEFAULT}
        for i, name in enumerate(TENANTS)
    }
    (folder / "tenants" / "config.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder / "tenants"


@pytest.fixture(scope="module")
def run(log: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    path = tmp_path_factory.mktemp("tenants") / "run"
    train(load_config(log / "config.yaml", SMALL), path)
    return RunDirectory(path)


@pytest.fixture(scope="module")
def exports(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    out = tmp_path_factory.mktemp("exports")
    return {
        name: Artefact(export(run, name, out, overrides=LOOSE).path)
        for name in (DEFAULT, TOWERLESS)
    }


def changed(log: Path, target: Path, change: Callable[[pa.Table], pa.Table]) -> str:
    target.mkdir()
    pq.write_table(change(pq.read_table(log / "test")), target / "part-0.parquet")
    return str(target)


def renamed(old: str, *new: str | None) -> Callable[[pa.Table], pa.Table]:
    """The requests of one tenant become others', by turns."""

    def change(table: pa.Table) -> pa.Table:
        turns = cycle(new)
        names = [next(turns) if name == old else name for name in table["tenant"].to_pylist()]
        at = table.schema.get_field_index("tenant")
        return table.set_column(at, "tenant", pa.array(names, pa.string()))

    return change


def scores(folder: Path, tenant: str | None = None) -> pa.Table:
    table = ds.dataset(folder).to_table().select(["request_id", "candidate", "surface", "click"])
    table = table if tenant is None else table.filter(pc.equal(table["surface"], tenant))
    order = [(name, "ascending") for name in ("request_id", "candidate")]
    return table.drop_columns(["surface"]).sort_by(order)


def test_every_tenant_is_trained_and_evaluated(run: RunDirectory):
    metrics = evaluate(run, "test", show=False)
    assert list(metrics["surfaces"]) == TENANTS
    assert all(found["requests"] > 0 for found in metrics["surfaces"].values())
    assert list(metrics["surfaces"][TOWERLESS]["tasks"]) == ["click"]


def test_a_tower_less_tenant_has_nothing_but_a_calibrator(run: RunDirectory):
    model = load_model(run, run.config)
    assert len(model.towers) == TOWERS == len(model.trunk.surface.weight)
    assert TOWERLESS not in model.towers
    assert TOWERLESS in model.calibrators
    view = model.for_surface(TOWERLESS)
    assert list(view.towers) == [DEFAULT]
    assert view.towers[DEFAULT] is model.towers[DEFAULT]


def test_parity(run: RunDirectory, exports: dict[str, Artefact], log: Path, tmp_path: Path):
    predict_with_run(run, str(log / "test"), tmp_path / "joint", show=False)
    for name, artefact in exports.items():
        assert artefact.manifest["parity"]["tasks"]["click"]["probability"] <= 1e-6
        predict(artefact, str(log / "test"), tmp_path / name, show=False)
        found, joint = scores(tmp_path / name), scores(tmp_path / "joint", name)
        assert found["request_id"] == joint["request_id"]
        np.testing.assert_allclose(found["click"], joint["click"], rtol=0, atol=1e-6)
    assert exports[TOWERLESS].manifest["tasks"] == ["click"]
    # Its scores are what the default's tower says of the same requests, calibrated its own way.
    as_default = changed(log, tmp_path / "table", renamed(TOWERLESS, DEFAULT))
    predict(exports[DEFAULT], as_default, tmp_path / "as_default", show=False)
    theirs, own = scores(tmp_path / "as_default"), scores(tmp_path / TOWERLESS)
    logits = dict(zip(keys(theirs), logit(theirs), strict=True))
    x, y = np.array([logits[key] for key in keys(own)]), logit(own)
    line = np.polyfit(x, y, 1)
    np.testing.assert_allclose(np.polyval(line, x), y, rtol=0, atol=2e-6)
    assert np.abs(line - [1, 0]).max() > 1e-4


def keys(table: pa.Table) -> list[tuple[Any, int]]:
    pairs = zip(table["request_id"].to_pylist(), table["candidate"].to_pylist(), strict=True)
    return list(pairs)


def logit(table: pa.Table) -> NDArray[np.float64]:
    p = table["click"].to_numpy()
    return np.log(p / (1 - p))


def test_a_tower_less_export_lives_alone(exports: dict[str, Artefact], log: Path, tmp_path: Path):
    alone = Artefact(Path(shutil.copytree(exports[TOWERLESS].path, tmp_path / "alone")))
    assert list(alone.model().towers) == [TOWERLESS]
    assert predict(alone, str(log / "test"), tmp_path / "out", show=False)["rows"] > 0


def test_an_unseen_tenant_is_scored_as_the_default(
    run: RunDirectory, exports: dict[str, Artefact], log: Path, tmp_path: Path
):
    table = changed(log, tmp_path / "table", renamed(OWN, "newcomer", None))
    as_default = changed(log, tmp_path / "as_default", renamed(OWN, DEFAULT))
    requests = sum(each == OWN for each in pq.read_table(log / "test")["tenant"].to_pylist())
    assert requests > 1
    expected = {"requests": requests, "surfaces": 2}
    for folder, given in (("unseen", table), ("expected", as_default)):
        found = predict(exports[DEFAULT], given, tmp_path / f"export-{folder}", show=False)
        joint = predict_with_run(run, given, tmp_path / f"run-{folder}", show=False)
        wanted = expected if folder == "unseen" else {"requests": 0, "surfaces": 0}
        assert found["unseen"] == joint["unseen"] == wanted
    assert scores(tmp_path / "export-unseen") == scores(tmp_path / "export-expected")
    assert scores(tmp_path / "run-unseen") == scores(tmp_path / "run-expected")
    # It is nobody else's.
    other = predict(exports[TOWERLESS], table, tmp_path / "other", show=False)
    assert other["unseen"]["requests"] == 0


def test_training_stays_strict(log: Path, tmp_path: Path):
    shutil.copytree(log / "valid", tmp_path / "valid")
    shutil.copytree(log / "test", tmp_path / "test")
    shutil.copytree(log / "train", tmp_path / "train")
    table = renamed(OWN, "newcomer")(pq.read_table(log / "train"))
    pq.write_table(table, tmp_path / "train" / "part-0.parquet")
    config = load_config(log / "config.yaml", [*SMALL, f"data.root={tmp_path}"])
    with pytest.raises(UserError, match="column tenant: 'newcomer' is not a surface"):
        train(config, tmp_path / "run")


def test_an_unknown_tenant_cannot_be_exported(run: RunDirectory, tmp_path: Path):
    with pytest.raises(UserError, match=r"--surface tenant_20: .*did you mean tenant_"):
        export(run, "tenant_20", tmp_path)

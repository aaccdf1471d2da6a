"""Parity on real test days, for every surface and precision, within the limits as they are."""

from pathlib import Path

import pytest

from recsys.config import load_config
from recsys.config.export import LimitsConfig, Recipe
from recsys.data.recipes.kuairand import build
from recsys.export.export import export
from recsys.run_directory import RunDirectory
from recsys.training.train import train

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "kuairand_pure"
CANDIDATES = 41_840  # of the test days


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """An epoch on the real logs."""
    if not (REAL / "data").is_dir():
        pytest.skip(f"KuaiRand-Pure is not at {REAL}")
    folder = tmp_path_factory.mktemp("kuairand")
    build(REAL, folder / "data")
    overrides = [f"data.root={folder / 'data'}", "training.epochs=1", "training.threads=1"]
    train(load_config(ROOT / "configs" / "kuairand.yaml", overrides), folder / "run")
    return RunDirectory(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_surface_is_within_the_limits(
    run: RunDirectory, tmp_path: Path, precision: str
) -> None:
    assert run.config.export.limits == LimitsConfig(probability=1e-6, auc=5e-4, ne=1e-3)
    seen = 0
    for surface in run.config.surfaces:
        recipe = Recipe(embeddings=precision)  # type: ignore[arg-type]
        parity = export(run, surface, tmp_path, recipe).manifest["parity"]
        seen += parity["candidates"]
        for task, found in parity["tasks"].items():
            assert found["auc"] is not None and abs(found["auc"]) <= 5e-4, (surface, task)
            assert found["ne"] is not None and abs(found["ne"]) <= 1e-3, (surface, task)
            if precision == "fp32":
                assert found["probability"] <= 1e-6, (surface, task)
    assert seen == CANDIDATES

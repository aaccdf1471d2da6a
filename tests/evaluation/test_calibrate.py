"""`recsys calibrate` on a trained run."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from recsys.config import load_config
from recsys.errors import UserError
from recsys.evaluation import score
from recsys.evaluation.calibrate import calibrate
from recsys.evaluation.score import evaluate, load_model
from recsys.model.unified import UnifiedModel
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint
from recsys.training.train import train
from tests.training.conftest import SMALL
from tests.training.runs import newest, state_of, tensors_of


@pytest.fixture(scope="module")
def run(simulated_log: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    more = ["model.calibration.kind=platt", "training.dense.lr=0.02"]
    config = load_config(simulated_log / "config.yaml", [*SMALL, *more])
    path = tmp_path_factory.mktemp("runs") / "run"
    train(config, path)
    return RunDirectory.open(path)


def table(simulated_log: Path, split: str = "valid") -> str:
    return str(simulated_log / split)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", [None, "isotonic", "global"])
def test_nothing_but_the_calibrators_differs(
    run: RunDirectory, simulated_log: Path, tmp_path: Path, kind: str | None
) -> None:
    before = contents(run.path)
    found = calibrate(run, table(simulated_log), kind, tmp_path / "new")
    assert contents(run.path) == before
    new = RunDirectory.open(tmp_path / "new")
    assert found["kind"] == new.config.model.calibration.kind == (kind or "platt")
    assert newest(new.path).name == newest(run.path).name
    assert checkpoint.is_complete(newest(new.path))
    old, now = tensors_of(newest(run.path)), tensors_of(newest(new.path))
    others = {name for name in old if ".calibrators." not in name}
    assert others == {name for name in now if ".calibrators." not in name}
    assert any(name.startswith("sparse.") for name in others)
    for name in others:
        assert torch.equal(old[name], now[name]), name
    changed = [name for name in now if name.startswith("model.calibrators.")]
    assert changed
    if kind is None:
        assert old.keys() == now.keys()
        assert all(not torch.equal(old[name], now[name]) for name in changed)
    for name, value in now.items():
        if name.startswith("dense.calibrators."):
            assert not value.any()
    assert state_of(newest(new.path)) == state_of(newest(run.path))
    for file in ("checkpoints/best.json", "plan.json", "metrics.jsonl"):
        assert (new.path / file).read_bytes() == (run.path / file).read_bytes()
    assert json.loads((new.path / "calibration.json").read_text()) == found
    config = new.config.model_dump()
    config["model"]["calibration"]["kind"] = "platt"
    assert config == run.config.model_dump()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_the_rows_that_it_was_fitted_to_are_calibrated(
    run: RunDirectory, simulated_log: Path, tmp_path: Path, kind: str
) -> None:
    found = calibrate(run, table(simulated_log), kind, tmp_path / "new", spread=float("inf"))
    assert found["spread"] is None
    was = evaluate(run, "valid", show=False)
    now = evaluate(RunDirectory.open(tmp_path / "new"), "valid", show=False)
    for surface, tasks in found["cells"].items():
        for task, cell in tasks.items():
            before = was["surfaces"][surface]["tasks"][task]
            after = now["surfaces"][surface]["tasks"][task]
            assert cell["status"] == "refitted"
            assert (cell["rows"], cell["positives"]) == (before["rows"], before["positives"])
            for name in ("ne", "pcoc", "ece"):
                assert cell["before"][name] == pytest.approx(before[name], abs=1e-5)
                assert cell["after"][name] == pytest.approx(after[name], abs=1e-5)
            assert after["pcoc"] == pytest.approx(1, abs=1e-3)
            assert after["ne"] <= before["ne"] + 1e-6
            assert after["auc"] == before["auc"]


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_surfaces_are_near_the_calibrator_of_all(
    run: RunDirectory, simulated_log: Path, tmp_path: Path, kind: str
) -> None:
    """PCOC of a surface goes from that under the global calibrator to 1 as the spread grows; a
    task of one surface alone has no others to be near."""
    data, found = table(simulated_log), {}
    for name, spread in {"near": 1e-3, "between": 0.1, "far": float("inf")}.items():
        found[name] = calibrate(run, data, kind, tmp_path / name, spread=spread)
    both = calibrate(run, data, "global", tmp_path / "global")
    assert (found["between"]["spread"], both["spread"]) == (0.1, None)

    def pcoc(document: dict, surface: str, task: str = "click") -> float:
        return document["cells"][surface][task]["after"]["pcoc"]

    off = 0.0
    for surface in run.config.surfaces:
        near, between, far = (pcoc(found[name], surface) for name in ("near", "between", "far"))
        assert far == pytest.approx(1, abs=1e-3)
        if abs(near - 1) > 0.02:
            assert abs(between - 1) < abs(near - 1)
        off = max(off, abs(near - 1))
        if kind == "platt":
            assert near == pytest.approx(pcoc(both, surface), abs=5e-3)
    assert off > 0.02  # the surfaces differ: there is something to see
    likes = [pcoc(each, "home", "like") for each in found.values()]
    assert likes == pytest.approx([1.0] * 3, abs=1e-3)


def test_a_retrained_run_takes_what_another_one_shows(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
) -> None:
    """The calibrators are those of the run that scored, in the retrained run's checkpoint."""
    more = ["model.calibration.kind=platt", "training.seed=2", "data.train=[train, valid]"]
    config = load_config(
        simulated_log / "config.yaml", [*SMALL, *more, "training.early_stopping.monitor=none"]
    )
    train(config, tmp_path / "retrained")
    retrained, data = RunDirectory.open(tmp_path / "retrained"), table(simulated_log)
    alone = calibrate(run, data, out=tmp_path / "alone")
    found = calibrate(retrained, data, out=tmp_path / "new", scored_by=run)
    assert (found["run"], found["scored_by"]) == (str(retrained.path), str(run.path))
    assert found["cells"] == alone["cells"]
    others, new = tensors_of(newest(tmp_path / "alone")), tensors_of(newest(tmp_path / "new"))
    old = tensors_of(newest(retrained.path))
    for name, value in new.items():
        of = others if ".calibrators." in name or name.startswith("dense.calib") else old
        assert torch.equal(value, of[name]), name


def test_scored_by_a_run_of_other_surfaces_is_refused(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
) -> None:
    more = ["data.surfaces=[home, search]"]
    train(load_config(simulated_log / "config.yaml", [*SMALL, *more]), tmp_path / "fewer")
    fewer = RunDirectory.open(tmp_path / "fewer")
    with pytest.raises(UserError, match=r"--scored-by .*fewer: surface related has no model there"):
        calibrate(run, table(simulated_log), out=tmp_path / "new", scored_by=fewer)
    assert not (tmp_path / "new").exists()


def test_scored_by_a_run_in_another_order_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    """A row's surface is a number: those of two orders must not be taken for each other."""
    other = RunDirectory(tmp_path / "turned")
    other.path.mkdir()
    document = yaml.safe_load(run.config_file.read_text())
    document["surfaces"] = dict(reversed(document["surfaces"].items()))
    other.config_file.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(UserError, match=r"--scored-by .*turned: lists its surfaces .* in another"):
        calibrate(run, "unread", out=tmp_path / "new", scored_by=other)


def test_a_calibrated_run_can_be_resumed(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
) -> None:
    calibrate(run, table(simulated_log), "isotonic", tmp_path / "new")
    new = RunDirectory.open(tmp_path / "new")
    more = new.config.model_copy(
        update={"training": new.config.training.model_copy(update={"epochs": 2})}
    )
    before = newest(new.path).name
    assert train(more, new.path, resume=True)["epochs"] == 2
    assert newest(new.path).name > before


def changed(
    simulated_log: Path,
    out: Path,
    *,
    without: str | None = None,
    zero: tuple[str, str] | None = None,
) -> str:
    """The valid split without a surface's rows, or with one class in a cell."""
    found = pq.read_table(simulated_log / "valid")
    if without:
        found = found.filter(pc.not_equal(found["surface"], without))
    rows = found.to_pylist()
    if zero:
        for row in rows:
            if row["surface"] == zero[0]:
                for candidate in row["candidates"]:
                    candidate[zero[1]] = 0
    out.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, found.schema), out / "part.parquet")
    return str(out)


def test_a_surface_without_rows_keeps_its_calibrator(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
) -> None:
    data = changed(simulated_log, tmp_path / "data", without="search")
    found = calibrate(run, data, None, tmp_path / "new")
    for task, cell in found["cells"]["search"].items():
        assert cell["status"] == "kept: no row with a known label", task
        assert cell["after"] == cell["before"] == dict.fromkeys(("ne", "pcoc", "ece"))
    old, now = tensors_of(newest(run.path)), tensors_of(newest(tmp_path / "new"))
    for name in old:
        if name.startswith("model.calibrators."):
            assert torch.equal(old[name], now[name]) == (".search." in name), name
    other = calibrate(run, data, "isotonic", tmp_path / "other")
    status = {cell["status"] for cell in other["cells"]["search"].values()}
    assert status == {"identity: no row with a known label"}


def test_a_cell_of_one_class_keeps_its_calibrator(
    run: RunDirectory, simulated_log: Path, tmp_path: Path
) -> None:
    data = changed(simulated_log, tmp_path / "data", zero=("home", "like"))
    found = calibrate(run, data, None, tmp_path / "new")
    rows = found["cells"]["home"]["like"]["rows"]
    assert found["cells"]["home"]["like"]["status"] == f"kept: all {rows:,} labels are 0"
    assert found["cells"]["home"]["like"]["after"]["ne"] is None
    assert found["cells"]["home"]["click"]["status"] == "refitted"
    old, now = (
        load_model(run, run.config),
        load_model(RunDirectory.open(tmp_path / "new"), run.config),
    )
    mine, theirs = old.calibrators["home"], now.calibrators["home"]
    assert mine.tasks == ("click", "like")
    assert torch.equal(mine.bias[1], theirs.bias[1])
    assert not torch.equal(mine.bias[0], theirs.bias[0])


def test_negative_sampling_is_undone(simulated_log: Path, tmp_path: Path) -> None:
    """A log that lost 3 of 4 negatives of a task: scores and metrics are of the whole traffic."""
    root = tmp_path / "logs"
    draw = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        found = pq.read_table(simulated_log / split)
        rows = found.to_pylist()
        for row in rows if split != "test" else ():
            for candidate in row["candidates"]:
                if row["surface"] == "home" and candidate["click"] == 0 and draw.random() > 0.25:
                    candidate["click"] = None
        (root / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, found.schema), root / split / "part.parquet")
    config = load_config(
        simulated_log / "config.yaml",
        [
            *SMALL,
            f"data.root={root}",
            "model.calibration.kind=platt",
            "training.dense.lr=0.02",
            "surfaces.home.negative_sampling={click: 0.25}",
        ],
    )
    train(config, tmp_path / "run")
    valid, out = str(root / "valid"), tmp_path / "new"
    done = calibrate(RunDirectory(tmp_path / "run"), valid, None, out, spread=float("inf"))
    # Weighted, so that the rate is that of the whole traffic; fitted, so that the sums agree.
    assert done["cells"]["home"]["click"]["after"]["pcoc"] == pytest.approx(1, abs=0.2)
    new = RunDirectory.open(tmp_path / "new")
    cell = evaluate(new, "valid", show=False)["surfaces"]["home"]["tasks"]["click"]
    assert cell["pcoc"] == pytest.approx(done["cells"]["home"]["click"]["after"]["pcoc"], abs=1e-5)
    rows = pq.read_table(new.predictions / "valid").filter(pc.field("surface") == "home")
    weight, label = rows["weight.click"].to_numpy(), rows["label.click"].to_numpy()
    assert set(weight[label == 0]) == {4.0}
    assert set(weight[label == 1]) == {1.0}
    # The raw logits are those of the log: the probability's odds are a quarter of the calibrated.
    model = load_model(new, new.config)
    calibrated = model.calibrate(torch.tensor(rows["logit.click"].to_numpy())[:, None].expand(
        -1, len(new.config.tasks)), "home")[:, 0].detach().numpy()  # fmt: skip
    p = rows["click"].to_numpy()
    np.testing.assert_allclose(np.log(p / (1 - p)), calibrated + np.log(0.25), rtol=0, atol=1e-9)
    # The test split kept all of its negatives: the mean of p is the rate there, as far as 100
    # requests can tell. Without the correction it would be more than twice that.
    evaluate(new, "test", show=False)
    test = pq.read_table(new.predictions / "test").filter(pc.field("surface") == "home")
    rate = test["click"].to_numpy().mean() / test["label.click"].to_numpy().mean()
    assert 0.6 < rate < 1.5


def test_what_is_wrong(run: RunDirectory, simulated_log: Path, tmp_path: Path) -> None:
    data = table(simulated_log)
    with pytest.raises(UserError, match="--kind plat: is platt, isotonic or global"):
        calibrate(run, data, "plat", tmp_path / "new")
    for spread in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"--spread .*: give a number above 0, or inf"):
            calibrate(run, data, None, tmp_path / "new", spread=spread)
    with pytest.raises(UserError, match=r"new: exists already; remove it"):
        (tmp_path / "new").mkdir()
        calibrate(run, data, None, tmp_path / "new")
    with pytest.raises(UserError, match="nowhere"):
        calibrate(run, str(tmp_path / "nowhere"), None, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    found = pq.read_table(simulated_log / "valid")
    rows = found.to_pylist()
    names = ("request_id", "surface", "candidates")
    for row in rows:
        for candidate in row["candidates"]:
            for task in run.config.tasks:
                candidate.pop(task)
    pq.write_table(
        pa.Table.from_pylist([{n: r[n] for n in (*names, *(k for k in r if k not in names))}
                              for r in rows]),
        unlabelled / "part.parquet",
    )  # fmt: skip
    with pytest.raises(UserError, match="click"):
        calibrate(run, str(unlabelled), None, tmp_path / "other")


def test_scores_that_are_nan_are_named(
    run: RunDirectory, simulated_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> UnifiedModel:
        model = load_model(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            model.towers["search"].tower.heads["click"].bias.fill_(float("nan"))  # type: ignore
        return model

    monkeypatch.setattr(score, "load_model", broken)
    message = r"valid: [\d,]+ scores of click are NaN, the first on surface search; look for"
    with pytest.raises(UserError, match=message):
        calibrate(run, table(simulated_log), None, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_are_linked_where_they_can_be(
    run: RunDirectory, simulated_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(run, table(simulated_log), None, tmp_path / "linked")
    large = max(newest(run.path).glob("__0_*"), key=lambda file: file.stat().st_size)
    assert (newest(tmp_path / "linked") / large.name).stat().st_ino == large.stat().st_ino

    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    calibrate(run, table(simulated_log), None, tmp_path / "copied")
    assert (newest(tmp_path / "copied") / large.name).stat().st_ino != large.stat().st_ino
    first, second = (tensors_of(newest(tmp_path / name)) for name in ("linked", "copied"))
    assert all(torch.equal(first[name], second[name]) for name in first)

"""Studies: the committed ones, the standard one, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from recsys.ablation.ablate import ablate
from recsys.ablation.runs import runs_of
from recsys.ablation.study import Study, personal_features, read_study, standard_study
from recsys.config import Config, dump_config, load_config
from recsys.errors import UserError
from tests.model.requests import random_config

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


def config_of(study: Path) -> Path:
    """`studies/NAME.yaml` and `studies/NAME_….yaml` are of `configs/NAME.yaml`."""
    return ROOT / "configs" / f"{study.stem.split('_')[0]}.yaml"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_a_committed_study_is_a_configuration(path: Path) -> None:
    study = read_study(path).model_copy(update={"seeds": (1,)})  # one reads as any other
    runs = runs_of(study, config_of(path), Path("out"), "test")
    assert list(runs) == list(study.variants)
    for name, seeds in runs.items():
        assert len(seeds) == len(study.seeds)
        surfaces = load_config(config_of(path)).surfaces
        assert len(seeds[0]) == (len(surfaces) if study.variants[name].each_surface else 1)


@pytest.mark.parametrize("name", ["kuairand", "simulated"])
def test_the_standard_study_of_the_shipped_configurations(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    study = standard_study(load_config(path)).model_copy(update={"seeds": (1,)})
    runs = runs_of(study, path, Path("out"), "test")
    folders = [run.folder for each in runs.values() for seed in each for run in seed]
    assert len(set(folders)) == len(folders)
    for part in ("shared bottom", "MMoE", "history", "MMoE + history"):
        assert not study.variants[part].each_surface
        assert study.variants[f"a model a surface: {part}"].each_surface
    assert {"PLE", "EPNet", "PPNet", "STAR", "towers off", "uncertainty weights"} <= set(
        study.variants
    )
    own = "calibration per surface"  # what the configuration has already
    assert {n for n in study.variants if n.startswith("calib")} == {
        "calibration none", "calibration global",
    }, own  # fmt: skip
    assert not any(name.startswith("balance by") for name in study.variants)  # nobody counted


def test_sampling_and_weighting_give_surfaces_the_same_weight(tmp_path: Path) -> None:
    path = ROOT / "configs" / "simulated.yaml"
    config = load_config(path)
    study = standard_study(config, {"home": 400, "search": 100, "related": 900})
    runs = runs_of(study.model_copy(update={"seeds": (1,)}), path, tmp_path, "test")
    sampling, weighting = (
        load_config(path, runs[f"balance by {name}"][0][0].overrides)
        for name in ("sampling", "weighting")
    )
    shares = {name: each.request_sampling for name, each in sampling.surfaces.items()}
    assert shares == {"home": 0.5, "search": 1.0, "related": pytest.approx(1 / 3, abs=1e-4)}
    assert shares == {name: each.weight for name, each in weighting.surfaces.items()}
    assert sampling.training.loss == weighting.training.loss == "task"
    alone = standard_study(config, {"home": 400})
    assert not any(name.startswith("balance by") for name in alone.variants)


def test_the_standard_study_of_a_configuration_with_everything(tmp_path: Path) -> None:
    """Modules over the history, surface-only features: variants without them stay whole."""
    from recsys.config import dump_config

    path = tmp_path / "config.yaml"
    path.write_text(dump_config(random_config(0)))
    config = load_config(path)
    runs = runs_of(standard_study(config), path, tmp_path, "test")

    def of(name: str) -> Config:
        return load_config(path, runs[name][0][0].overrides)

    bottom, shared = of("shared bottom"), of("towers off")
    assert bottom.model.sequence is None
    assert bottom.model.experts.count == 1
    reads = [m.inputs for m in bottom.surfaces["search"].tower.modules]
    assert len(reads) == 2
    assert shared.model.towers == "shared"
    assert shared.features.request["query"].surfaces is None
    assert of("PLE").model.experts.own == 1
    assert of("PPNet").model.gates.ppnet == tuple(personal_features(config)) == ("item",)
    assert "STAR" not in runs  # its stems differ


BAD = [
    ("variants: [", "no YAML"),
    ("- joint", "is not a mapping of keys"),
    ("variants: {}", "variants: is empty; give at least one"),
    ("varants: {joint: {}}", "unknown key varants; did you mean variants?"),
    ("variants: {joint: {st: []}}", "unknown key variants.joint.st; did you mean set?"),
    ("variants: {joint: {ranks: 0}}", "variants.joint.ranks: 0: "),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_study(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_study(path)
    assert "study.yaml" in str(refused.value)
    assert message in str(refused.value)


def test_nothing_is_trained_if_a_variant_is_no_configuration(tmp_path: Path) -> None:
    study = Study.model_validate({"variants": {"a": {}, "b": {"set": ["model.expert.count=1"]}}})
    with pytest.raises(UserError, match=r"unknown key model\.expert"):
        runs_of(study, ROOT / "configs" / "simulated.yaml", tmp_path, "test")


def test_unknown_split_and_variant(tmp_path: Path) -> None:
    config = ROOT / "configs" / "simulated.yaml"
    with pytest.raises(UserError, match="--split dev: is train, valid or test"):
        ablate(config, tmp_path, split="dev")
    with pytest.raises(UserError, match=r"--only PEL: no such variant; did you mean PLE\?"):
        ablate(config, tmp_path, only=["PEL"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs=9", "training.epochs: is 9 here but"),
        ("training.early_stopping.monitor=none", "monitor: is 'none' here but 'auc' in"),
        ("evaluation.hit_at=[3]", "evaluation.hit_at: is [3] here but [1, 5, 10] in"),
        ("data.root=elsewhere", "data.root: is 'elsewhere' here but"),
        ("sharding.constraints.user.types=[row_wise]", "types: is ['row_wise'] here but"),
    ],
)
def test_a_result_is_of_its_own_configuration(tmp_path: Path, change: str, message: str) -> None:
    path = ROOT / "configs" / "simulated.yaml"
    constrained = ["sharding.constraints.user.types=[table_wise]"]
    study = Study.model_validate({"variants": {"joint": {"set": constrained}}, "seeds": [1]})
    [[[run]]] = runs_of(study, path, tmp_path, "test").values()
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(dump_config(load_config(path, run.overrides)))
    changed = dataclasses.replace(run, overrides=(*run.overrides, change))
    changed.check_unchanged()  # a run that is not done may go on so, as on --resume
    run.result.write_text("{}")
    run.check_unchanged()
    quiet = ("name=other", "training.log_every_steps=7", "training.timeout_seconds=7")
    dataclasses.replace(run, overrides=(*run.overrides, *quiet)).check_unchanged()
    with pytest.raises(UserError) as caught:
        changed.check_unchanged()
    assert message in str(caught.value)
    assert str(caught.value).endswith("; give another --out, or remove that run")

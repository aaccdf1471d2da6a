"""The examples of .torchxconfig, loaded by TorchX: it skips in silence what it does not know."""

import configparser
import inspect
from pathlib import Path

import pytest
from torchx.runner import config, get_runner
from torchx.specs import CfgVal
from torchx.specs.builders import materialize_appdef
from torchx.specs.finder import get_component

FOLDER = Path(__file__).parents[2] / "torchx_apps" / "examples"
SCHEDULERS = ["local_cwd", "slurm", "kubernetes"]


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TORCHXCONFIG", str(FOLDER / f"{request.param}.torchxconfig"))
    return str(request.param)


def test_one_example_a_scheduler() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(SCHEDULERS)


def test_it_is_for_its_scheduler(scheduler: str) -> None:
    assert config.get_config("cli", "run", "scheduler") == scheduler


def test_the_scheduler_takes_every_option(scheduler: str) -> None:
    cfg: dict[str, CfgVal] = {}
    config.apply(scheduler, cfg)
    file = configparser.ConfigParser()
    file.read(FOLDER / f"{scheduler}.torchxconfig")
    assert cfg.keys() == dict(file[scheduler]).keys()
    with get_runner() as runner:
        runner.scheduler_run_opts(scheduler).resolve(cfg)  # raises on a wrong type


def test_the_components_take_every_default(scheduler: str) -> None:
    sections = config.load_sections("component")
    assert "recsys.train" in sections
    for name, defaults in sections.items():
        function = get_component(name).fn
        parameters = inspect.signature(function).parameters
        assert defaults.keys() <= parameters.keys(), name
        given = {"config": "c.yaml", "run": "runs/a", "verb": "export", "surfaces": "home"}
        arguments = [
            part
            for key, value in given.items()
            if key in parameters and key not in defaults
            for part in (f"--{key}", value)
        ]
        app = materialize_appdef(function, arguments, defaults)
        for role in app.roles:
            assert role.max_retries == int(defaults.get("max_retries", 0))
            assert role.env["PET_MAX_RESTARTS"] == defaults.get("max_restarts", "0")
            assert len(role.mounts) == defaults.get("mounts", "").count("type=")

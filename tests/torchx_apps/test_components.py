"""Components as TorchX's own linter, finder and parser read them; the command each runs."""

import inspect
import shlex
from pathlib import Path

import pytest
import typer.main
from torch.distributed.run import get_args_parser
from torchx import specs
from torchx.specs.builders import materialize_appdef
from torchx.specs.file_linter import get_fn_docstring, validate
from torchx.specs.finder import ComponentValidationException, get_component, get_components

from recsys.cli import app as recsys
from torchx_apps import components

NAMES = ["train", "evaluate", "tune", "each_surface"]
REQUIRED = {
    "train": ["--config", "c.yaml"],
    "evaluate": ["--run", "runs/a"],
    "tune": ["--config", "c.yaml", "--topology", "1x2xcpu"],
    "each_surface": ["--verb", "evaluate", "--run", "runs/a", "--surfaces", "home,search"],
}


def app_of(name: str, *arguments: str) -> specs.AppDef:
    """The job that `torchx run recsys.NAME ARGUMENTS` submits."""
    return materialize_appdef(getattr(components, name), list(arguments))


def verb_of(role: specs.Role) -> list[str]:
    """What torchrun, by its own parser, hands to the command line of recsys."""
    assert role.entrypoint == "bash"
    assert role.args[0] == "-c"
    (line,) = role.args[1:]
    words = shlex.split(line)
    arguments = words[words.index("torchrun") + 1 :]
    read = get_args_parser().parse_args(arguments)
    assert read.module
    assert read.training_script == "recsys.cli"
    assert read.training_script_args[0] != "--"
    return list(read.training_script_args)


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_linter(name: str) -> None:
    assert validate(str(inspect.getsourcefile(components)), name) == []


def test_the_linter_would_say_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def f(*, a: set[str], b=1) -> int: ...")
    assert len(validate(str(file), "f")) == 3


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_by_its_registered_name(name: str) -> None:
    assert get_component(f"recsys.{name}").fn is getattr(components, name)


def test_nothing_else_is_registered_and_nothing_hidden() -> None:
    found = get_components()
    assert sorted(each for each in found if each.startswith("recsys.")) == sorted(
        f"recsys.{name}" for name in NAMES
    )
    assert {"dist.torchrun", "utils.echo"} <= found.keys()


@pytest.mark.parametrize("name", NAMES)
def test_its_help_describes_every_argument(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    function = getattr(components, name)
    described = inspect.getdoc(function)
    assert described is not None
    _, arguments = get_fn_docstring(function)
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in described  # what the docstring lacks, TorchX fills in
        assert len(arguments[argument]) > 10
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        app_of(name, "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Example: torchx run" in shown
    assert "TIP: improve this help" not in shown


def test_training_passes_everything_on() -> None:
    app = app_of(
        "train",
        *("--config", "c.yaml", "--run", "runs/a", "--resume", "True", "-j", "2x8"),
        *("--plan", "plan.json"),
        *("-h", "h100_8", "--env", "A=1,B=x", "--max_restarts", "3", "--max_retries", "2"),
        *("--grace_seconds", "90", "--image", "registry/recsys:1", "--name", "team/first"),
        *("--mounts", "type=bind,src=/logs,dst=/data,readonly"),
        *("training.epochs=2", "data.surfaces=[home,search]", "data.root=my logs"),
    )
    assert app.name == "first"
    (role,) = app.roles
    assert role.name == "train"
    assert (role.num_replicas, role.resource.gpu, role.max_retries) == (2, 8, 2)
    assert role.image == "registry/recsys:1"
    assert (
        role.env.items()
        >= {
            "A": "1",
            "B": "x",
            "PET_MAX_RESTARTS": "3",
            "PET_SHUTDOWN_TIMEOUT": "90",
        }.items()
    )
    (mount,) = role.mounts
    assert mount.src_path == "/logs"  # type: ignore[union-attr]
    assert "--nnodes 2 --nproc_per_node 8" in role.args[1]
    assert verb_of(role) == [
        *("train", "c.yaml", "--run", "runs/a", "--resume", "--plan", "plan.json"),
        *("--set", "training.epochs=2"),
        *("--set", "data.surfaces=[home,search]", "--set", "data.root=my logs"),
    ]


def test_an_override_of_a_name_with_other_characters() -> None:
    more = ["surfaces.eu-west.weight=2", "sharding.constraints.user*.types=[row_wise]"]
    (role,) = app_of("train", *REQUIRED["train"], *more).roles
    assert verb_of(role) == ["train", "c.yaml", "--set", more[0], "--set", more[1]]


def test_torchrun_reads_its_options_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`dist.torchrun` has no argument for them."""
    (role,) = app_of(
        "train", *REQUIRED["train"], "--max_restarts", "3", "--grace_seconds", "90"
    ).roles
    for key, value in role.env.items():
        monkeypatch.setenv(key, value)
    read = get_args_parser().parse_args(shlex.split(role.args[1])[1:])
    assert (read.max_restarts, read.shutdown_timeout) == (3, 90)


def test_what_a_user_sets_comes_before_what_the_component_sets() -> None:
    (role,) = app_of("train", *REQUIRED["train"], "--env", "PET_MAX_RESTARTS=7").roles
    assert role.env["PET_MAX_RESTARTS"] == "7"


def test_the_least_that_training_needs() -> None:
    (role,) = app_of("train", *REQUIRED["train"]).roles
    assert verb_of(role) == ["train", "c.yaml"]
    assert "--nnodes 1 --nproc_per_node 1" in role.args[1]


def test_evaluation() -> None:
    (role,) = app_of("evaluate", "--run", "runs/a").roles
    assert verb_of(role) == ["evaluate", "runs/a", "--split", "test"]
    (role,) = app_of("evaluate", "--run", "a", "--split", "valid", "--surface", "home").roles
    assert verb_of(role) == ["evaluate", "a", "--split", "valid", "--surface", "home"]


def test_tuning() -> None:
    more = ["--out", "p.json", "--", "--rounds", "5", "training.batch_candidates=64"]
    (role,) = app_of("tune", *REQUIRED["tune"], *more).roles
    assert verb_of(role) == [
        *("plan", "c.yaml", "--topology", "1x2xcpu", "--tune", "--out", "p.json"),
        *("--rounds", "5", "--set", "training.batch_candidates=64"),
    ]


def test_a_role_a_surface() -> None:
    app = app_of(
        "each_surface",
        *("--verb", "export", "--run", "runs/a", "--surfaces", "home,search", "-j", "1x2"),
        *("--", "--embeddings", "int8", "export.limits.size=3"),
    )
    assert [role.name for role in app.roles] == ["export-home", "export-search"]
    for role, surface in zip(app.roles, ["home", "search"], strict=True):
        assert verb_of(role) == [
            *("export", "runs/a", "--embeddings", "int8", "--set", "export.limits.size=3"),
            *("--surface", surface),
        ]
        assert "--nnodes 1 --nproc_per_node 2" in role.args[1]
        assert role.args[1].startswith(
            "python -m recsys.surface_job --run runs/a --job '${app_id}' "
            f"--surface {surface} --of home,search -- torchrun "
        )


def test_surfaces_are_those_of_the_run(simulated_log: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((simulated_log / "config.yaml").read_text())
    app = app_of("each_surface", "--verb", "export", "--run", str(run))
    assert [role.name for role in app.roles] == ["export-home", "export-search", "export-related"]


def test_a_run_that_is_not_readable_here(tmp_path: Path) -> None:
    with pytest.raises(ComponentValidationException) as caught:
        app_of("each_surface", "--verb", "export", "--run", str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}/config.yaml: not found here; give --surfaces, or start torchx where the run "
        "is readable"
    )


def test_a_surface_takes_one_node() -> None:
    with pytest.raises(ComponentValidationException, match="-j 2x1: a surface runs on one node"):
        app_of("each_surface", *REQUIRED["each_surface"], "-j", "2x1")


@pytest.mark.parametrize("name", ["train", "evaluate", "each_surface"])
def test_recsys_reads_the_command(name: str) -> None:
    command = typer.main.get_command(recsys)
    for role in app_of(name, *REQUIRED[name]).roles:
        verb, *arguments = verb_of(role)
        context = command.make_context("recsys", [verb, *arguments])
        found = command.get_command(context, verb)  # type: ignore[attr-defined]
        found.make_context(verb, arguments)  # raises a usage error

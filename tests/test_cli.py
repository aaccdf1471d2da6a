"""The command line as a user meets it: exit codes, messages, JSON on stdout, a quick --help."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from recsys import cli
from recsys.errors import RunError, UserError

# A model whose steps take milliseconds.
SMALL = (
    "model.sequence.dim=8",
    "model.sequence.heads=2",
    "model.sequence.feedforward=8",
    "model.projection.width=16",
    "model.projection.sequence=4",
    "model.crossing.rank=4",
    "model.experts.hidden=[8]",
    "training.batch_candidates=256",
    "training.epochs=1",
    "training.threads=1",
)
METRICS = {"rows", "positives", "auc", "gauc", "pr_auc", "logloss", "ne", "pcoc", "ece"}


@dataclass(frozen=True)
class Done:
    """What one call of `recsys` did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """All of stdout, which must be one JSON document."""
        return json.loads(self.out)


Recsys = Callable[..., Done]


def in_own_process(*arguments: object) -> Done:
    command = [sys.executable, "-m", "recsys.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def recsys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Recsys]:
    """Calls `recsys` in this process, which has loaded torch already."""
    monkeypatch.setenv("RECSYS_WARNINGS", "1")  # main() would switch off those of later tests
    for rank in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(rank, raising=False)
    loggers = [logging.getLogger(name) for name in (None, "torch", "torchrec", "fbgemm_gpu")]
    levels = [logger.level for logger in loggers]

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["recsys", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        else:
            code = 0
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    yield call
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def assert_message(done: Done, code: int, *parts: str) -> None:
    """One line on stderr that has every part; nothing on stdout."""
    assert done.code == code, done
    assert done.out == ""
    [line] = done.err.splitlines()
    assert line.startswith("recsys: ")
    for part in parts:
        assert part in line


@pytest.fixture(scope="session")
def trained(simulated_log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A run of `recsys train --json` in a process of its own, and what it printed."""
    run = tmp_path_factory.mktemp("cli") / "run"
    config = simulated_log / "config.yaml"
    done = in_own_process("train", config, "--run", run, "--json", *sets(*SMALL))
    assert done.code == 0, done.err
    return run, done


def verbs() -> list[list[str]]:
    """Every verb of the command line, as its words."""

    def walk(command: Any, words: list[str]) -> Iterator[list[str]]:
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, [*words, name])
        if not hasattr(command, "commands"):
            yield words

    return list(walk(typer.main.get_command(cli.app), []))


def test_help_loads_nothing_heavy():
    script = (
        "import sys\n"
        "sys.argv = ['recsys', '--help']\n"
        "from recsys.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, file=sys.stderr)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    code, modules = done.stderr.splitlines()[-2:]
    assert code == "0"
    assert "evaluate" in done.stdout
    heavy = {"torch", "torchrec", "fbgemm_gpu", "pyarrow", "duckdb", "numpy", "sklearn", "pydantic"}
    assert not heavy & set(modules.replace("'", "").strip("[]").split(", "))


def test_the_verbs_of_the_design_are_there():
    assert {
        ("doctor",),
        ("data", "simulate"),
        ("data", "kuairand"),
        ("data", "group"),
        ("data", "check"),
        ("train",),
        ("evaluate",),
        ("predict",),
        ("plan",),
    } <= {tuple(words) for words in verbs()}


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_verb_has_help_and_json(words, recsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = recsys(*words, "--help")
    assert done.code == 0
    assert "--json" in done.out


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("bad.yaml: a fault"), 2), (RunError("stopped at step 7"), 1)]
)
def test_an_error_is_one_line_and_a_code(error, code, recsys, monkeypatch):
    def fail() -> None:
        raise error

    monkeypatch.setattr("recsys.doctor.examine", fail)
    assert_message(recsys("doctor"), code, str(error))


def test_of_all_ranks_the_first_speaks(recsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = recsys("evaluate", "no_such_run")
    assert (done.code, done.out, done.err) == (2, "", "")


def test_doctor_with_a_fault_exits_1_and_still_prints(recsys, monkeypatch):
    fault = {"what": "torch is not installed", "fix": "pip install torch"}
    monkeypatch.setattr("recsys.doctor.examine", lambda: {"faults": [fault]})
    done = recsys("doctor", "--json")
    assert done.code == 1
    assert done.document == {"faults": [fault]}


def test_wrong_usage_exits_2(recsys):
    assert recsys("evaluate").code == 2
    assert recsys("nonsense").code == 2
    assert recsys("data", "simulate", "out", "--requests", "many").code == 2


def test_simulate_prints_one_json_document(recsys, tmp_path):
    options = ("--requests", 200, "--users", 10, "--candidates", 4)
    done = recsys("data", "simulate", tmp_path / "log", *options, "--json")
    assert done.code == 0
    assert sum(done.document["requests"].values()) == 200
    assert (tmp_path / "log" / "config.yaml").is_file()

    again = recsys("data", "simulate", tmp_path / "log", *options)
    assert_message(again, 2, str(tmp_path / "log"), "already exists", "another folder")


def test_simulate_refuses_a_size(recsys, tmp_path):
    done = recsys("data", "simulate", tmp_path / "log", "--surfaces", 65)
    assert_message(done, 2, "surfaces", "65", "1 to 64")


def test_check_prints_one_json_document(recsys, simulated_log):
    done = recsys("data", "check", simulated_log / "config.yaml", "--json")
    assert done.code == 0, done.err
    assert done.document["faults"] == []


@pytest.mark.parametrize("words", [("data", "check"), ("train",)], ids=" ".join)
class TestConfig:
    """Every verb that reads a config says the same about a wrong one."""

    def test_missing_file(self, words, recsys, tmp_path):
        done = recsys(*words, tmp_path / "none.yaml")
        assert_message(done, 2, "none.yaml", "no such file", "give the path")

    def test_unknown_key(self, words, recsys, simulated_log):
        done = recsys(*words, simulated_log / "config.yaml", *sets("training.epoch=2"))
        assert_message(done, 2, "config.yaml", "training.epoch", "did you mean epochs")

    def test_unreadable_override(self, words, recsys, simulated_log):
        done = recsys(*words, simulated_log / "config.yaml", *sets("training.epochs"))
        assert_message(done, 2, "--set training.epochs", "key.path=value")

    def test_wrong_value(self, words, recsys, simulated_log):
        done = recsys(*words, simulated_log / "config.yaml", *sets("training.epochs=soon"))
        assert_message(done, 2, "config.yaml", "training.epochs", "soon")


def test_train_prints_one_json_document(trained):
    run, done = trained
    assert done.document["run"] == str(run)
    assert done.document["steps"] > 0
    assert "Traceback" not in done.err


def test_train_leaves_an_existing_run_alone(trained, simulated_log, recsys):
    run, _ = trained
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = recsys("train", simulated_log / "config.yaml", "--run", run, *sets(*SMALL))
    assert_message(done, 2, str(run), "exists already", "--resume")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_evaluate_prints_one_json_document(trained, recsys):
    run, _ = trained
    done = recsys("evaluate", run, "--json")
    assert done.code == 0, done.err
    found = done.document
    assert found["split"] == "test"
    assert set(found["surfaces"]) == {"home", "search", "related"}
    for surface in found["surfaces"].values():
        assert surface["candidates"] >= surface["requests"] > 0
        assert "click" in surface["tasks"]
        for cell in surface["tasks"].values():
            assert set(cell) >= METRICS
    assert set(found["all"]["tasks"]["click"]) >= METRICS
    assert found["all"]["tasks"]["click"]["rows"] == sum(
        surface["tasks"]["click"]["rows"] for surface in found["surfaces"].values()
    )


def test_evaluate_draws_a_table(trained, recsys):
    run, _ = trained
    done = recsys("evaluate", run, "--split", "valid")
    assert done.code == 0, done.err
    for name in ("home", "search", "related", "click"):
        assert name in done.out


def test_evaluate_of_what_is_no_run(recsys, tmp_path):
    assert_message(recsys("evaluate", tmp_path), 2, str(tmp_path), "not a run directory", "--run")


def test_evaluate_of_an_unknown_split_or_surface(trained, recsys):
    run, _ = trained
    assert_message(recsys("evaluate", run, "--split", "tset"), 2, "--split tset", "test")
    assert_message(recsys("evaluate", run, "--surface", "serach"), 2, "serach", "search")


def test_evaluate_by_segments_and_fields(trained, recsys):
    run, _ = trained
    options = ("--segment", "known_group", "--field", "group", "--json")
    found = recsys("evaluate", run, *options).document
    assert set(found["field_ece"]) == {"surface", "group"}
    rows = [each["tasks"]["click"]["rows"] for each in found["segments"]["known_group"].values()]
    assert sum(rows) == found["all"]["tasks"]["click"]["rows"]
    assert_message(recsys("evaluate", run, "--segment", "grup"), 2, "--segment grup", "group")


def test_report_prints_one_json_document_and_writes_a_page(recsys, tmp_path):
    from tests.report.tables import predictions, write

    tables = [write(tmp_path / name, predictions(noise)) for name, noise in (("a", 0), ("b", 1))]
    out = tmp_path / "page.html"
    options = ("--resamples", 100, "--segment", "age", "--hit-at", 2, "--out", out)
    done = recsys("report", "--predictions", *tables, *options, "--json")
    assert done.code == 0, done.err
    assert [each["name"] for each in done.document["systems"]] == ["a", "b"]
    assert "hit@2" in done.document["differences"][0]["all"]["tasks"]["click"]
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert_message(recsys("report", tables[0], tmp_path / "gone"), 2, "gone", "no such predictions")


def test_predict_prints_one_json_document(trained, recsys, simulated_log, tmp_path):
    run, _ = trained
    out = tmp_path / "predictions"
    done = recsys("predict", run, simulated_log / "test", out, "--json")
    assert done.code == 0, done.err
    assert done.document["rows"] > 0
    assert any(out.rglob("*.parquet"))
    again = recsys("predict", run, simulated_log / "test", out)
    assert_message(again, 2, str(out), "exists")


def test_plan_prints_one_json_document_and_a_plan_to_train_with(recsys, simulated_log, tmp_path):
    out, config = tmp_path / "plan.json", simulated_log / "config.yaml"
    done = recsys("plan", config, "--topology", "1x1xcpu", "--json", "--out", out, *sets(*SMALL))
    assert done.code == 0, done.err
    assert done.document["fits"]
    assert done.document["workload"]["measured"]
    assert done.document["plan"] == json.loads(out.read_text())
    run = tmp_path / "run"
    done = in_own_process("train", config, "--run", run, "--plan", out, *sets(*SMALL))
    assert done.code == 0, done.err
    assert f"plan: as in {out}" in done.err
    assert (run / "plan.json").read_text() == out.read_text()


def test_plan_that_does_not_fit_exits_1_and_says_what_would(recsys, simulated_log):
    huge = [f"tables.{name}.rows=4000000000" for name in ("item", "tag", "interest")]
    words = ("plan", simulated_log / "config.yaml", "--topology", "1x1xH100", *sets(*huge))
    done = recsys(*words, "--json")
    assert done.code == 1
    assert not done.document["fits"]
    assert any(change["fits"] for change in done.document["changes"])
    assert "Does not fit." in recsys(*words).out


def test_plan_of_an_unknown_topology(recsys, simulated_log):
    done = recsys("plan", simulated_log / "config.yaml", "--topology", "2x8xH1000")
    assert_message(done, 2, "--topology 2x8xH1000", "did you mean H100?")


@pytest.mark.parametrize("more", [("--html", "x.html"), ("--what-if",), ("--topology", "1x1xcpu")])
def test_tuning_refuses_what_it_would_not_do(more, recsys, simulated_log):
    words = ("plan", simulated_log / "config.yaml", "--topology", "2x1xcpu", "--tune", *more)
    assert_message(recsys(*words), 2, f"{more[0]}: not with --tune; leave one of them out")


def test_train_with_a_plan_that_is_not_there(recsys, simulated_log, tmp_path):
    config, plan = simulated_log / "config.yaml", tmp_path / "none.json"
    done = recsys("train", config, "--run", tmp_path / "run", "--plan", plan)
    assert_message(done, 2, "none.json", "cannot be read", "recsys plan --out")
    assert not (tmp_path / "run").exists()

"""All surfaces exported at the same time: `scripts/export_surfaces.sh`, and TorchX."""

import os
import subprocess
from pathlib import Path

import pytest

from recsys.export.artefact import Artefact
from recsys.run_directory import RunDirectory
from tests.export.test_export import tree
from tests.torchx_apps.jobs import BIN, environment

SCRIPT = Path(__file__).parents[2] / "scripts" / "export_surfaces.sh"


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={**os.environ, "RECSYS": str(BIN / "recsys"), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_surface_that_fails_does_not_stop_the_others(
    run: RunDirectory, exports: dict[str, Artefact], tmp_path: Path
):
    before = tree(run.path)
    done = script(str(run.path), "--out", str(tmp_path), SURFACES="nowhere search")
    assert done.returncode == 1
    [version] = (tmp_path / "search").iterdir()
    # As if it had been exported alone.
    assert version.name == exports["search"].version == Artefact(version).version
    assert "nowhere: failed: recsys: --surface nowhere: not a surface of this run" in done.stdout
    assert "1 of 2 surfaces are done" in done.stdout
    assert "click, purchase" in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["search"]
    assert tree(run.path) == before


def test_another_verb_and_a_name_with_a_blank(tmp_path: Path):
    """A verb that makes no export: here a command that does nothing but answer."""
    run, command = tmp_path / "run", tmp_path / "bin" / "recsys"
    run.mkdir()
    (run / "config.yaml").write_text(
        """
name: blanks
data: {root: .}
tables: {item: {rows: 4, dim: 4}}
features: {candidate: {item: {id: item}}}
surfaces: {home feed: {tasks: [click]}, search: {tasks: [click]}}
"""
    )
    command.parent.mkdir()
    command.write_text('#!/bin/sh\necho "{\\"called\\": \\"$*\\"}"\necho "$*" >>"$CALLS"\n')
    command.chmod(0o755)
    python = command.with_name("python")
    python.write_text(f'#!/bin/sh\nexec {BIN}/python "$@"\n')
    python.chmod(0o755)
    calls = tmp_path / "calls"
    done = script(str(run), VERB="evaluate", RECSYS=str(command), CALLS=str(calls))
    assert done.returncode == 0, done.stderr
    assert sorted(calls.read_text().splitlines()) == [
        f"evaluate {run} --surface home feed --json",
        f"evaluate {run} --surface search --json",
    ]
    assert "2 of 2 surfaces are done" in done.stdout


def test_no_run(tmp_path: Path):
    done = script(str(tmp_path))
    assert done.returncode == 2
    assert "not a run directory (no config.yaml)" in done.stderr
    assert script().returncode == 2


@pytest.mark.slow
def test_a_role_that_fails_does_not_stop_the_others(
    run: RunDirectory, exports: dict[str, Artefact], tmp_path: Path
):
    command = ["torchx", "run", "-s", "local_cwd", "recsys.each_surface", "--verb", "export"]
    command += [
        "--run",
        str(run.path),
        "--surfaces",
        "nowhere,search",
        "--",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1  # the job says that one failed
    [version] = (tmp_path / "search").iterdir()
    assert version.name == exports["search"].version
    assert "1 of 2 surfaces are done" in done.stderr
    [why] = [line for line in done.stderr.splitlines() if "failed (1)" in line]
    assert "nowhere" in why and "not a surface of this run" in why

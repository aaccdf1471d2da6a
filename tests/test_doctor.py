"""`recsys doctor`: the triple's rules, what it finds here, and where nothing is installed."""

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.doctor.devices import memory, parse_gpus, unused_gpu
from recsys.doctor.imports import MODULES, import_faults, try_imports
from recsys.doctor.triple import CPU, CUDA, RELEASES, Installed, examine_triple, release
from recsys.doctor.versions import cuda_of

REPOSITORY = Path(__file__).parents[1]
TORCHES = ("2.10.0", "2.11.0", "2.12.0", "2.13.0", "2.14.1")
TORCHRECS = FBGEMMS = ("1.5.0", "1.6.0", "1.7.0", "1.8.0", "1.9.0")
# Written out, not derived: this is the rule.
MATCHING = {("2.11.0", "1.6.0"), ("2.12.0", "1.7.0"), ("2.13.0", "1.8.0")}


def installed(torch="2.13.0+cpu", torchrec="1.8.0", cpu="1.8.0", cuda=None, built=None, gpus=0):
    return Installed(torch, built, torchrec, cpu, cuda, gpus)


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_only_the_three_releases_match(build):
    for torch, torchrec, fbgemm in itertools.product(TORCHES, TORCHRECS, FBGEMMS):
        found = examine_triple(
            installed(torch + "+cpu", torchrec, fbgemm)
            if build == "cpu"
            else installed(torch, torchrec, None, fbgemm, built="13.0", gpus=1)
        )
        expected = torchrec == fbgemm and (torch, fbgemm) in MATCHING
        assert found.matches == expected, (torch, torchrec, fbgemm, found.faults)


def test_a_patch_release_matches():
    assert examine_triple(installed("2.11.0+cpu", "1.6.1", "1.6.0")).matches


def test_the_fixes_of_a_mismatch_lead_to_a_match():
    """Follows the fixes over every combination: what they install is a triple that matches."""
    versions = (None, "1.6.0", "1.8.0")
    for torch, torchrec, cpu, cuda, gpus in itertools.product(
        (None, "2.11.0+cpu", "2.13.0", "2.14.1"), versions, versions, versions, (0, 1)
    ):
        built = None if torch is None or "+cpu" in torch else "13.0"
        state = {"torch": torch, "torchrec": torchrec, CPU: cpu, CUDA: cuda}
        for _ in range(3):  # a new torch may ask for another fbgemm-gpu
            found = examine_triple(
                Installed(state["torch"], built, state["torchrec"], state[CPU], state[CUDA], gpus)
            )
            for fault in found.faults:
                for command in fault.fix.split(" && "):
                    words = shlex.split(command)
                    assert words[1:3] == ["-m", "pip"]
                    for package in (word for word in words[4:] if not word.startswith("-")):
                        name, _, version = package.partition("==")
                        state[name] = version if words[3] == "install" else None
                        built = "13.0" if name == "torch" else built
        assert found.matches, (torch, torchrec, cpu, cuda, gpus, found.faults)


@pytest.mark.parametrize(
    ("case", "what", "fix"),
    [
        (installed(torch=None), "torch is not installed", "torch==2.13.0"),
        (installed(torchrec=None), "torchrec is not installed", "--no-deps torchrec==1.8.0"),
        (installed(cpu=None), "fbgemm-gpu is not installed", "fbgemm-gpu-cpu==1.8.0"),
        (
            installed(torch="2.13.0", built="13.0", cpu=None, gpus=1),
            "fbgemm-gpu is not installed",
            "fbgemm-gpu==1.8.0",
        ),
        (
            installed(cuda="1.8.0"),
            "both installed",
            "uninstall -y fbgemm-gpu-cpu fbgemm-gpu && ",
        ),
        (
            installed(cpu=None, cuda="1.8.0"),
            "fbgemm-gpu is a CUDA build and torch 2.13.0+cpu a CPU build",
            "install fbgemm-gpu-cpu==1.8.0",
        ),
        (
            installed(torch="2.11.0+cpu"),
            "torchrec 1.8.0 does not match torch 2.11",
            "--no-deps torchrec==1.6.1",
        ),
        (
            installed(torch="2.15.0"),
            "torch 2.15.0 is not supported; 2.11, 2.12, 2.13 are",
            "install torch==2.13.0",
        ),
    ],
)
def test_each_fault_says_its_fix(case, what, fix):
    found = examine_triple(case)
    assert not found.matches
    assert what in found.faults[0].what
    assert fix in found.faults[0].fix


def test_what_works_but_may_not_be_wanted_is_a_note():
    without_gpu = examine_triple(installed(torch="2.13.0", built="13.0"))
    assert without_gpu.matches
    assert "CPUs only" in without_gpu.notes[0]
    # PyPI's torch, as `make setup` gets it where pip looks nowhere else.
    beside_gpu = examine_triple(installed(torch="2.13.0", built="13.0", gpus=1))
    assert beside_gpu.matches
    assert "CPUs only; `make setup DEVICE=cuda`" in beside_gpu.notes[0]
    assert beside_gpu.notes[0].endswith("install fbgemm-gpu==1.8.0")
    unused = examine_triple(installed(gpus=1))
    assert unused.matches
    assert "DEVICE=cuda" in unused.notes[0]
    assert not examine_triple(installed()).notes


def test_the_pins_are_a_supported_triple():
    requirements = REPOSITORY / "requirements"
    pins = {
        name: dict(
            line.split("==")
            for line in (requirements / name).read_text().splitlines()
            if "==" in line and not line.startswith("#")
        )
        for name in ("cpu.txt", "cuda.txt", "torchrec.txt")
    }
    pinned = RELEASES[release(pins["cpu.txt"]["torch"])]
    assert pinned == (
        pins["cpu.txt"]["torch"],
        pins["torchrec.txt"]["torchrec"],
        pins["cpu.txt"][CPU],
    )
    assert pins["cuda.txt"]["torch"] == pinned[0]
    assert pins["cuda.txt"][CUDA] == pinned[2]


def test_the_build_of_torch_is_read_from_its_version_file():
    text = "__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = {}\nhip = None\n"
    assert cuda_of(text.format("'13.0'")) == "13.0"
    assert cuda_of(text.format("None")) is None


def test_a_process_that_dies_is_reported_and_the_rest_goes_on(tmp_path):
    for name, body in {
        "dies": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "leaves": "import os; os._exit(3)",
        "raises": "raise OSError('not loaded:\\n libfoo.so') from OSError('no libbar.so')",
        "wants": "import not_there.at_all",
        "fine": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(body)
    probe = REPOSITORY / "recsys" / "doctor" / "probe.py"
    script = (
        f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); "
        f"runpy.run_path({str(probe)!r}, run_name='__main__')"
    )
    names = ("fine", "dies", "raises", "leaves", "wants")
    found = try_imports(names, (sys.executable, "-c", script))
    assert {name: found[name]["ok"] for name in names} == {
        "fine": True, "dies": False, "raises": False, "leaves": False, "wants": False
    }  # fmt: skip
    assert "SIGSEGV" in found["dies"]["error"]
    assert "code 3" in found["leaves"]["error"]
    assert found["raises"]["error"] == "OSError: not loaded: libfoo.so: no libbar.so"
    assert found["wants"]["missing"] == "not_there"


def test_an_import_fault_is_told_once():
    fine = {"ok": True, "error": None, "seconds": 0.1}
    broken = {"ok": False, "error": "OSError: no", "seconds": 0.1}
    versions = {"torch": "2.13.0", CUDA: None, CPU: "1.8.0"}
    imports = dict.fromkeys(MODULES, fine)
    assert import_faults(imports, versions, triple_matches=True, gpus=0) == []

    imports |= dict.fromkeys(("fbgemm_gpu", "torchrec", "lookup"), broken)
    [fault] = import_faults(imports, versions, triple_matches=True, gpus=0)
    assert fault.what == "fbgemm_gpu does not import: OSError: no"
    assert fault.fix.endswith("--force-reinstall --no-deps fbgemm-gpu-cpu==1.8.0")
    assert import_faults(imports, versions, triple_matches=False, gpus=0) == []

    cuda = {"torch": "2.13.0", CUDA: "1.8.0", CPU: None}
    [fault] = import_faults(imports, cuda, triple_matches=True, gpus=0)
    assert "no GPU is found here" in fault.what
    assert fault.fix.endswith("install fbgemm-gpu-cpu==1.8.0")
    [fault] = import_faults(imports, cuda, triple_matches=True, gpus=1)
    assert fault.fix.endswith("--force-reinstall --no-deps fbgemm-gpu==1.8.0")

    missing = {**broken, "missing": "tensordict"}
    imports = dict.fromkeys(MODULES, fine) | {"torchrec": missing, "lookup": missing}
    [fault] = import_faults(imports, versions, triple_matches=True, gpus=0)
    assert "tensordict is not installed" in fault.what
    assert "install tensordict==" in fault.fix


def test_a_gpu_that_torch_does_not_see_is_a_fault():
    gpu = {"gpus": parse_gpus("NVIDIA H100 80GB HBM3, 81559\n")}
    assert gpu["gpus"] == [{"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.6}]
    on_cpu, on_gpu = {"device": "cpu"}, {"device": "cuda"}
    assert "CUDA 13.0" in unused_gpu(gpu, "13.0", on_cpu, None).what
    assert unused_gpu(gpu, "13.0", on_gpu, None) is None
    assert unused_gpu(gpu, "13.0", on_cpu, "") is None
    assert unused_gpu(gpu, None, on_cpu, None) is None
    assert unused_gpu({"gpus": []}, "13.0", on_cpu, None) is None


def test_a_container_limit_counts_as_the_memory(tmp_path):
    limit = tmp_path / "memory.max"
    whole = memory(limit)
    limit.write_text("max\n")
    assert memory(limit) == whole
    limit.write_text("1048576\n")
    assert memory(limit) == 1048576


def test_doctor_here_finds_a_triple_that_works():
    done = subprocess.run(
        [sys.executable, "-m", "recsys.cli", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["faults"] == [], found["faults"]
    assert done.returncode == 0
    assert found["triple"]["matches"] is True
    assert list(found["imports"]) == list(MODULES)
    assert all(result["ok"] for result in found["imports"].values())
    assert found["imports"]["lookup"]["device"] in ("cpu", "cuda")
    assert found["versions"]["torchrec"].startswith("1.")
    assert found["devices"]["cpus"] >= 1
    assert found["devices"]["memory_gib"] > 0


def test_doctor_works_where_nothing_is_installed(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True
    )
    script = "import json; from recsys.doctor import examine; print(json.dumps(examine()))"
    done = subprocess.run(
        [str(tmp_path / "bare" / "bin" / "python"), "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["triple"]["matches"] is False
    assert found["versions"]["torch"] is None
    fixes = {fault["what"]: fault["fix"] for fault in found["faults"]}
    assert "pip install torch==2.13.0" in fixes["torch is not installed"]
    assert "--no-deps torchrec==1.8.0" in fixes["torchrec is not installed"]
    assert "fbgemm-gpu" in fixes["fbgemm-gpu is not installed"]
    assert "pip install pyarrow==" in fixes["pyarrow is not installed"]
    assert all(str(tmp_path / "bare") in fix for fix in fixes.values())


def test_an_examination_is_drawn_with_whole_fixes():
    from rich.console import Console

    from recsys.doctor import print_examination

    fix = "python -m pip install " + "x" * 200
    console = Console(width=60, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_examination(
        {
            "versions": {"torch": "2.13.0", "fbgemm-gpu": None},
            "triple": {"matches": False},
            "imports": {"torch": {"ok": False, "seconds": None, "error": "x"}},
            "devices": {"cpus": 2, "memory_gib": 4.0, "gpus": []},
            "faults": [{"what": "an [odd] fault", "fix": fix}],
            "notes": ["a note"],
        },
        console,
    )
    text = console.export_text()
    assert "an [odd] fault" in text
    assert fix in text
    assert "do not match" in text

"""Whether the packages import and a lookup works, tried in another process."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.doctor.fault import Fault, pip
from recsys.doctor.triple import CPU, CUDA, PINNED, RELEASES, release, swap_fbgemm

PROBE = Path(__file__).with_name("probe.py")
# In this order in one process: torch is loaded once.
MODULES = (
    "pyarrow",
    "duckdb",
    "pydantic",
    "omegaconf",
    "sklearn",
    "torchx",
    "torch",
    "fbgemm_gpu",
    "torchrec",
    "lookup",
)
TRIPLE = ("torch", "fbgemm_gpu", "torchrec", "lookup")
DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "torchx": "torchx-nightly",
    "pyre_extensions": "pyre-extensions",
    "yaml": "PyYAML",
    "google": "protobuf",
}
TIMEOUT_S = 300


def try_imports(
    modules: tuple[str, ...] = MODULES, command: tuple[str, ...] | None = None
) -> dict[str, dict[str, Any]]:
    """Module → `ok`, `seconds`, `error` (None or one line), and `missing` where a module is.

    A process that dies is reported for the module that killed it; the rest go on in a new one.
    """
    command = command or (sys.executable, "-P", str(PROBE))
    found: dict[str, dict[str, Any]] = {}
    left = list(modules)
    while left:
        try:
            done = subprocess.run(
                [*command, *left], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            output, end = done.stdout, _end(done.returncode, done.stderr)
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode()
            end = f"no answer in {TIMEOUT_S} s"
        for line in output.splitlines():
            if line.startswith("probe "):
                result = json.loads(line.removeprefix("probe "))
                found[result.pop("module")] = result
        left = [module for module in left if module not in found]
        if left:
            found[left.pop(0)] = {"ok": False, "error": end, "seconds": None}
    return found


def import_faults(
    imports: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str | None],
    triple_matches: bool,
    gpus: int,
) -> list[Fault]:
    """A fault for each import that failed, unless another fault explains it."""
    faults: dict[str, Fault] = {}
    broken = not triple_matches
    for module, result in imports.items():
        if result["ok"]:
            continue
        name = (result.get("missing") or "").split(".")[0]
        if name and name not in TRIPLE:
            # One package that several others want is one fault.
            needs = "" if name == module else f"; {module} needs it"
            faults.setdefault(name, Fault(f"{name} is not installed{needs}", _install(name)))
            broken = broken or module in TRIPLE
        elif module not in TRIPLE or not broken:
            what = "a lookup fails" if module == "lookup" else f"{module} does not import"
            fix = _reinstall(module, versions)
            if module == "fbgemm_gpu" and versions[CUDA] is not None and not gpus:
                what = f"{CUDA} is a CUDA build and no GPU is found here; it does not import"
                fix = swap_fbgemm(CPU, _pins(versions)[2])
            faults[module] = Fault(f"{what}: {result['error']}", fix)
            broken = module in TRIPLE  # those after it need it
    return list(faults.values())


def _end(code: int, stderr: str) -> str:
    last = (stderr.strip().splitlines() or [""])[-1]
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with code {code}: {last}"


def _install(module: str) -> str:
    name = DISTRIBUTION.get(module, module)
    requirements = Path(__file__).parents[2] / "requirements" / "common.txt"
    if requirements.is_file():  # a checkout: the version it was tested with
        for line in requirements.read_text(encoding="utf-8").splitlines():
            if line.lower().replace("_", "-").startswith(f"{name.lower().replace('_', '-')}=="):
                return pip("install", line.strip())
    return pip("install", name)


def _pins(versions: Mapping[str, str | None]) -> tuple[str, str, str]:
    return RELEASES.get(release(versions["torch"]) or "", RELEASES[PINNED])


def _reinstall(module: str, versions: Mapping[str, str | None]) -> str:
    if module in TRIPLE:
        torch, torchrec, fbgemm = _pins(versions)
        build = CUDA if versions[CUDA] else CPU
        pins = {
            "torch": [f"torch=={torch}"],
            "fbgemm_gpu": [f"{build}=={fbgemm}"],
            "torchrec": [f"torchrec=={torchrec}"],
            "lookup": [f"{build}=={fbgemm}", f"torchrec=={torchrec}"],
        }[module]
        return pip("install", "--force-reinstall", "--no-deps", *pins)
    return pip("install", "--force-reinstall", "--no-deps", DISTRIBUTION.get(module, module))

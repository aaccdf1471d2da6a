"""torch, torchrec and fbgemm-gpu must be of one release, and of one build: CPU or CUDA."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from recsys.doctor.fault import Fault, pip
from recsys.doctor.versions import torch_cuda

# torch → the torchrec and fbgemm-gpu to install with it; those of one row match, in any patch.
RELEASES = {
    "2.13": ("2.13.0", "1.8.0", "1.8.0"),
    "2.12": ("2.12.1", "1.7.0", "1.7.0"),
    "2.11": ("2.11.0", "1.6.1", "1.6.0"),
}
PINNED = "2.13"
CPU, CUDA = "fbgemm-gpu-cpu", "fbgemm-gpu"


@dataclass(frozen=True)
class Installed:
    """What is installed, as far as the triple goes; None = not installed."""

    torch: str | None
    torch_cuda: str | None
    torchrec: str | None
    fbgemm_cpu: str | None
    fbgemm_cuda: str | None
    gpus: int = 0

    @classmethod
    def here(cls, versions: dict[str, str | None], gpus: int) -> "Installed":
        return cls(
            torch=versions["torch"],
            torch_cuda=torch_cuda(),
            torchrec=versions["torchrec"],
            fbgemm_cpu=versions[CPU],
            fbgemm_cuda=versions[CUDA],
            gpus=gpus,
        )


@dataclass(frozen=True)
class Triple:
    """Whether the three match, the faults if not, and what is worth knowing if so."""

    compared: dict[str, str | None]
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        return not self.faults


def examine_triple(installed: Installed) -> Triple:
    """Compares releases and builds. A function of its argument alone.

    The fixes go by the installed torch where it is a supported one: run together, they end in a
    matching triple.
    """
    pins = RELEASES.get(release(installed.torch) or "", RELEASES[PINNED])
    faults = [
        *_torch_faults(installed),
        *_torchrec_faults(installed, *pins[:2]),
        *_fbgemm_faults(installed, pins[0], pins[2]),
    ]
    builds = {CPU: installed.fbgemm_cpu, CUDA: installed.fbgemm_cuda}
    compared = {
        "torch": installed.torch,
        "torch_cuda": installed.torch_cuda,
        "torchrec": installed.torchrec,
        CPU: installed.fbgemm_cpu,
        CUDA: installed.fbgemm_cuda,
    }
    notes = []
    if not faults and builds[CUDA] is None:
        if installed.torch_cuda:
            note = f"torch {installed.torch} is for CUDA; with {CPU} it uses CPUs only"
            if installed.gpus:
                swap = swap_fbgemm(CUDA, pins[2])
                note += f"; `make setup DEVICE=cuda` makes it use the GPU, or, without make: {swap}"
            notes.append(note)
        elif installed.gpus:
            notes.append("there is a GPU; `make setup DEVICE=cuda` installs what uses it")
    return Triple(compared, faults, notes)


def _torch_faults(installed: Installed) -> Iterator[Fault]:
    fix = pip("install", f"torch=={RELEASES[PINNED][0]}")
    if installed.torch is None:
        yield Fault("torch is not installed", fix)
    elif release(installed.torch) not in RELEASES:
        supported = ", ".join(sorted(RELEASES))
        yield Fault(f"torch {installed.torch} is not supported; {supported} are", fix)


def _torchrec_faults(installed: Installed, torch: str, torchrec: str) -> Iterator[Fault]:
    # Its metadata asks for the CUDA build of fbgemm-gpu, on any machine.
    fix = pip("install", "--no-deps", f"torchrec=={torchrec}")
    if installed.torchrec is None:
        yield Fault("torchrec is not installed", fix)
    elif release(installed.torchrec) != release(torchrec):
        yield Fault(f"torchrec {installed.torchrec} does not match torch {release(torch)}", fix)


def _fbgemm_faults(installed: Installed, torch: str, fbgemm: str) -> Iterator[Fault]:
    builds = {CPU: installed.fbgemm_cpu, CUDA: installed.fbgemm_cuda}
    present = {name: version for name, version in builds.items() if version is not None}
    wanted = _wanted_build(installed)
    swap = swap_fbgemm(wanted, fbgemm)
    if not present:
        yield Fault("fbgemm-gpu is not installed", pip("install", f"{wanted}=={fbgemm}"))
        return
    if len(present) == 2:
        yield Fault(f"{CPU} and {CUDA} are both installed; each overwrote files of the other", swap)
        return
    [(name, version)] = present.items()
    if release(version) != release(fbgemm):
        yield Fault(f"{name} {version} does not match torch {release(torch)}", swap)
    elif installed.torch and name == CUDA and not installed.torch_cuda:
        yield Fault(f"{name} is a CUDA build and torch {installed.torch} a CPU build", swap)


def swap_fbgemm(build: str, version: str) -> str:
    """The command that leaves this build of fbgemm-gpu alone installed.

    The builds share a folder: one cannot be installed over the other.
    """
    return f"{pip('uninstall', '-y', CPU, CUDA)} && {pip('install', f'{build}=={version}')}"


def _wanted_build(installed: Installed) -> str:
    """The build that suits the installed torch and, where torch leaves it open, the machine.

    A CUDA torch runs on CPUs too, and the CPU build works beside it there.
    """
    if installed.torch is not None and not installed.torch_cuda:
        return CPU
    if installed.fbgemm_cpu is None and installed.fbgemm_cuda is not None:
        return CUDA
    return CUDA if installed.gpus else CPU


def release(version: str | None) -> str | None:
    """`2.13` of `2.13.0+cpu`."""
    found = re.match(r"\d+\.\d+", version or "")
    return found[0] if found else None

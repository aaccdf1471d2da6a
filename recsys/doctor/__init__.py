"""What is installed, whether it fits together, and the command that mends what does not.

Nothing here imports torch or torchrec, nor anything else that may be missing or broken: versions
come from package metadata and imports are tried in a process of their own.
"""

import os
import platform
from typing import Any

from recsys.doctor.devices import find_devices, unused_gpu
from recsys.doctor.imports import import_faults, try_imports
from recsys.doctor.show import print_examination
from recsys.doctor.triple import CUDA, Installed, examine_triple
from recsys.doctor.versions import installed_versions

__all__ = ["examine", "print_examination"]


def examine() -> dict[str, Any]:
    """Looks at versions, the torch/torchrec/fbgemm-gpu triple, imports and devices.

    Returns:
        `versions`: distribution → version or None; `triple`: `matches` and what was compared;
        `imports`: module → `ok`, `seconds`, `error`; `devices`: `cpus`, `memory_gib`, `gpus`;
        `faults`: a list of `what` and `fix`, the fix a command for a shell; `notes`: sentences on
        what works but may not be what one wants.
    """
    versions = installed_versions()
    devices = find_devices()
    triple = examine_triple(Installed.here(versions, gpus=len(devices["gpus"])))
    imports = try_imports()
    faults = list(triple.faults)
    faults += import_faults(imports, versions, triple.matches, len(devices["gpus"]))
    if triple.matches and versions[CUDA] is not None:
        unused = unused_gpu(
            devices,
            triple.compared["torch_cuda"],
            imports["lookup"],
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        faults += [unused] if unused else []
    return {
        "versions": {"python": platform.python_version(), **versions},
        "triple": {"matches": triple.matches, **triple.compared},
        "imports": imports,
        "devices": devices,
        "faults": [{"what": fault.what, "fix": fault.fix} for fault in faults],
        "notes": list(triple.notes),
    }

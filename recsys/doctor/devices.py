"""What this machine has to compute with, found without torch."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.doctor.fault import Fault

GIB = 1024**3


def find_devices() -> dict[str, Any]:
    """`cpus` and `memory_gib` this process may use; `gpus`: `name` and `memory_gib` of each."""
    return {"cpus": cpu_count(), "memory_gib": round(memory() / GIB, 1), "gpus": nvidia_gpus()}


def unused_gpu(
    devices: Mapping[str, Any],
    torch_cuda: str | None,
    lookup: Mapping[str, Any],
    visible: str | None,
) -> Fault | None:
    """A GPU that the driver shows, a set-up for CUDA, and a lookup that ran on the CPU.

    `visible` is CUDA_VISIBLE_DEVICES; a user who hides the GPUs has no fault.
    """
    hidden = visible is not None and visible.strip() in ("", "-1")
    if not devices["gpus"] or torch_cuda is None or hidden or lookup.get("device") != "cpu":
        return None
    return Fault(
        f"torch does not see the GPU: its CUDA {torch_cuda} is likely newer than the driver",
        f"nvidia-smi  # shows the driver's CUDA version: update the driver to one for {torch_cuda}",
    )


def cpu_count() -> int:
    """CPUs of this process's affinity mask, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory(limit_file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory: the machine's, or its container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = limit_file.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def nvidia_gpus() -> list[dict[str, Any]]:
    """The GPUs that the NVIDIA driver shows; none where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(done.stdout)


def parse_gpus(lines: str) -> list[dict[str, Any]]:
    """`NVIDIA H100 80GB HBM3, 81559` → name and GiB, one a line."""
    gpus = []
    for line in lines.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdigit():
            gpus.append({"name": name.strip(), "memory_gib": round(int(mebibytes) / 1024, 1)})
    return gpus

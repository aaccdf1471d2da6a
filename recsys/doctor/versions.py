"""Versions from package metadata, without importing the packages."""

import re
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = (
    "recsys",
    "torch",
    "torchrec",
    "fbgemm-gpu",
    "fbgemm-gpu-cpu",
    "tensordict",
    "torchmetrics",
    "torchx-nightly",
    "pyarrow",
    "duckdb",
    "numpy",
    "scikit-learn",
    "pydantic",
    "omegaconf",
    "tensorboard",
)


def installed_versions() -> dict[str, str | None]:
    """Distribution → its version, None where it is not installed."""
    return {name: _version(name) for name in DISTRIBUTIONS}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for; None for a CPU build or no torch.

    The version number does not always say it (2.13.0 is a CUDA build, 2.13.0+cpu is not), so this
    reads torch/version.py.
    """
    try:
        file = Path(str(metadata.distribution("torch").locate_file("torch/version.py")))
        text = file.read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    return cuda_of(text)


def cuda_of(version_file: str) -> str | None:
    """The value of `cuda` in the text of a torch/version.py."""
    found = re.search(r"""^cuda\b[^=\n]*=\s*['"]([^'"]+)['"]""", version_file, re.MULTILINE)
    return found[1] if found else None

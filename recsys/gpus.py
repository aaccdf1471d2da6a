"""Whether this process computes on GPUs: the one place that decides."""

from importlib.metadata import distributions

import torch

from recsys.doctor.triple import CPU


def usable_gpus() -> int:
    """The GPUs that torch sees; none beside FBGEMM's CPU build, whose lookups know no CUDA.

    PyPI's torch is the one for CUDA, so that a set-up for CPUs may well have it.
    """
    if any(distributions(name=CPU)):
        return 0
    return torch.cuda.device_count()

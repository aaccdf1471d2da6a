"""What a node of a job has: `-h NAME`. Registered in pyproject.toml, one entry point a name.

Memory is in MB of 2^20 bytes, as TorchX counts. A node of a cluster has less than its data sheet
says, because the system keeps some: ask for what the scheduler can give. Your own are registered in
the same way, by any package: an entry point of the group `torchx.named_resources`.
"""

from torchx.specs import Resource

GIB = 1024


def cpu_2() -> Resource:
    """Two cores: a test, a small run, the evaluation of one."""
    return Resource(cpu=2, gpu=0, memMB=8 * GIB)


def cpu_16() -> Resource:
    """16 cores: training without a GPU, exports."""
    return Resource(cpu=16, gpu=0, memMB=64 * GIB)


def h100_8() -> Resource:
    """A node of 8 H100 with 80 GB each.

    Fits what is sold as one: AWS p5.48xlarge (192 virtual CPUs, 2 TiB), GCP a3-highgpu-8g (208,
    1.8 TiB), Azure ND96isr H100 v5 (96, 1.9 TiB), NVIDIA DGX H100 (224, 2 TiB).
    """
    return Resource(cpu=88, gpu=8, memMB=1600 * GIB)

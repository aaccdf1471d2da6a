"""Named resources, looked up as `-h NAME` is."""

import pytest
from torchx import specs


@pytest.mark.parametrize(
    ("name", "cpu", "gpu"), [("cpu_2", 2, 0), ("cpu_16", 16, 0), ("h100_8", 88, 8)]
)
def test_registered(name: str, cpu: int, gpu: int) -> None:
    found = specs.resource(h=name)
    assert (found.cpu, found.gpu) == (cpu, gpu)
    assert found.memMB >= 4 * 1024 * cpu


def test_a_gpu_node_has_a_rank_a_gpu() -> None:
    """`-j 2` alone is read as two such nodes."""
    from torchx_apps.components import train

    (role,) = train(config="c.yaml", j="2", h="h100_8").roles
    assert "--nnodes 2 --nproc_per_node 8" in role.args[1]

"""Memory that tables may not take."""

import copy
from typing import Any

from torch import nn
from torchrec.distributed.planner import ParameterConstraints, Topology
from torchrec.distributed.planner.types import Storage, StorageReservation
from torchrec.distributed.types import ModuleSharder, get_tensor_size_bytes

# Weight, gradient, DDP's bucket, AdamW's two averages.
COPIES_OF_DENSE = 5


class Reservation(StorageReservation):
    """A share of every memory, and the dense parameters with all that training keeps of them.

    TorchRec's own reservations take their share of device memory alone, so that on a CPU, whose
    tables are in host memory, they would reserve nothing.

    Args:
        share: of each memory, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._percentage = share  # TorchRec's messages read this name
        self._last: Topology | None = None

    def reserve(
        self,
        topology: Topology,
        batch_size: int,
        module: nn.Module,
        sharders: list[ModuleSharder[nn.Module]],
        constraints: dict[str, ParameterConstraints] | None = None,
        **_: Any,
    ) -> Topology:
        left = copy.deepcopy(topology)
        dense = COPIES_OF_DENSE * dense_bytes(module, sharders)
        on_device = topology.compute_device != "cpu"
        for device in left.devices:
            device.storage = Storage(
                hbm=self._left(device.storage.hbm, dense if on_device else 0),
                ddr=self._left(device.storage.ddr, 0 if on_device else dense),
            )
        self._last = left
        return left

    def _left(self, memory: int, dense: int) -> int:
        return max(0, int(memory * (1 - self._percentage)) - dense)

    @property
    def last_reserved_topology(self) -> Topology | None:
        return self._last


def dense_bytes(module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> int:
    """Bytes of the parameters and buffers outside the embedding collections."""
    kinds = tuple(sharder.module_type for sharder in sharders)
    collections = [each for each in module.modules() if isinstance(each, kinds)]
    inside = {id(tensor) for each in collections for tensor in each.parameters()}
    tensors = [*module.parameters(), *module.buffers()]
    return sum(get_tensor_size_bytes(tensor) for tensor in tensors if id(tensor) not in inside)

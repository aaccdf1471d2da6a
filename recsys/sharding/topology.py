"""The machines that a plan is made for: `2x8xH100`, `1x2xcpu`, or a YAML file."""

import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError
from torchrec.distributed.planner import Topology

from recsys.config.experiment import nearest
from recsys.config.section import Section
from recsys.errors import UserError
from recsys.sharding.devices import DEVICES, GIB, Device

_SHORT = re.compile(r"(\d+)x(\d+)x([A-Za-z][\w-]*)")
# Bytes a millisecond, as TorchRec counts, of one GB/s.
_PER_GBS = 1e9 / 1000


@dataclass(frozen=True)
class Cluster:
    """`nodes` hosts with `ranks` ranks each."""

    nodes: int
    ranks: int
    device: Device

    @property
    def world(self) -> int:
        return self.nodes * self.ranks

    @property
    def label(self) -> str:
        return f"{self.nodes}x{self.ranks}x{self.device.name}"

    @property
    def hbm_bytes(self) -> int:
        """Device memory of a rank; 0 for a CPU."""
        return int(self.device.hbm_gib * GIB)

    @property
    def ddr_bytes(self) -> int:
        """A rank's share of its host's memory."""
        return int(self.device.ddr_gib * GIB / self.ranks)

    def with_ranks(self, world: int) -> "Cluster":
        """As many ranks of the same device: of one host, or of whole hosts."""
        if world <= self.ranks:
            return replace(self, nodes=1, ranks=world, device=self._share(world))
        return replace(self, nodes=-(-world // self.ranks))

    def _share(self, ranks: int) -> Device:
        """A host's memory belongs to those ranks that are planned, in the same share a rank."""
        share = ranks / self.ranks
        device = self.device
        return replace(device, ddr_gib=device.ddr_gib * share, ddr_gbs=device.ddr_gbs * share)

    def torchrec(self) -> Topology:
        """The same for TorchRec's planner."""
        device = self.device
        return Topology(
            world_size=self.world,
            local_world_size=self.ranks,
            compute_device=device.compute,
            hbm_cap=self.hbm_bytes,
            ddr_cap=self.ddr_bytes,
            hbm_mem_bw=device.hbm_gbs * _PER_GBS,
            ddr_mem_bw=device.ddr_gbs * _PER_GBS / self.ranks,
            hbm_to_ddr_mem_bw=device.host_to_device_gbs * _PER_GBS,
            intra_host_bw=device.intra_gbs * _PER_GBS,
            inter_host_bw=device.inter_gbs * _PER_GBS,
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "label": self.label,
            "nodes": self.nodes,
            "ranks_per_node": self.ranks,
            "world": self.world,
            "device": asdict(self.device),
        }


class TopologyFile(Section):
    """A topology's YAML file: hosts, and what differs from the known device of that name."""

    nodes: int = Field(ge=1, description="Hosts")
    ranks: int = Field(ge=1, description="Ranks a host: one a GPU")
    device: str = Field(min_length=1, description="A known device, or a name of your own")
    compute: Literal["cuda", "cpu"] | None = Field(None, description="Of a device of your own")
    hbm_gib: float | None = Field(None, ge=0, description="Device memory, GiB")
    ddr_gib: float | None = Field(None, gt=0, description="Memory of a host, GiB")
    hbm_gbs: float | None = Field(None, gt=0, description="Bandwidth of device memory, GB/s")
    ddr_gbs: float | None = Field(None, gt=0, description="Bandwidth of a host's memory, GB/s")
    host_to_device_gbs: float | None = Field(None, gt=0, description="PCIe, GB/s a rank")
    intra_gbs: float | None = Field(None, gt=0, description="Within a host, GB/s a rank")
    inter_gbs: float | None = Field(None, gt=0, description="Between hosts, GB/s a rank")


def parse_topology(text: str) -> Cluster:
    """`NODESxRANKSxDEVICE`, or the path of a YAML file with the keys of `TopologyFile`.

    Raises `UserError` that names the topology, the file or the key, and the fix.
    """
    if match := _SHORT.fullmatch(text):
        nodes, ranks = int(match[1]), int(match[2])
        if not (nodes and ranks):
            raise UserError(f"--topology {text}: needs at least one node and one rank")
        return Cluster(nodes, ranks, _device(match[3], f"--topology {text}"))
    path = Path(text)
    if not path.is_file():
        raise UserError(
            f"--topology {text}: is neither NODESxRANKSxDEVICE (for example 2x8xH100) nor a file"
        )
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: is not a mapping of keys; give nodes, ranks and device")
    return _from_file(path, document)


def _device(name: str, where: str) -> Device:
    found = DEVICES.get(name.lower())
    if found is None:
        names = [device.name for device in DEVICES.values()]
        raise UserError(
            f"{where}: unknown device {name}; {nearest(name, names)}; "
            "describe others in a YAML file"
        )
    return found


def _from_file(path: Path, document: dict[str, Any]) -> Cluster:
    try:
        file = TopologyFile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            problem = f"unknown key {key}; {nearest(key, TopologyFile.model_fields)}"
        elif first["type"] == "missing":
            problem = f"{key}: missing; add this key"
        else:
            problem = f"{key}: {first['input']!r}: {first['msg']}"
        raise UserError(f"{path}: {problem}") from None
    given = file.model_dump(exclude={"nodes", "ranks", "device"}, exclude_none=True)
    known = DEVICES.get(file.device.lower())
    if known is None:
        needed = [name for name in Device.__dataclass_fields__ if name != "name"]
        missing = [name for name in needed if name not in given]
        if missing:
            names = ", ".join(device.name for device in DEVICES.values())
            raise UserError(
                f"{path}: device {file.device} is not known (known: {names}); "
                f"give {', '.join(missing)} too"
            )
        known = Device(name=file.device, **given)
    device = replace(known, **given)
    if device.compute == "cuda" and device.hbm_gib <= 0:
        raise UserError(f"{path}: hbm_gib: {device.hbm_gib:g}: a CUDA device needs memory")
    return Cluster(file.nodes, file.ranks, device)


def ranks_per_node(world: int) -> int:
    """How many of the job's `world` ranks this host has: torchrun's `LOCAL_WORLD_SIZE`."""
    return min(world, int(os.environ.get("LOCAL_WORLD_SIZE", str(world))))


def machine_at_hand(world: int, compute: str) -> Cluster:
    """The machines that this job runs on: capacities measured here, bandwidths as known.

    Every host is taken to be like this one.
    """
    ranks = ranks_per_node(world)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    device = replace(DEVICES["cpu"], ddr_gib=memory)
    if compute == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        known = [d for d in DEVICES.values() if d.name.split("-")[0] in properties.name]
        # The nearest in memory of those with this name; an unknown GPU is like an H100 otherwise.
        hbm = properties.total_memory / GIB
        nearest_device = min(
            known or [DEVICES["h100"]], key=lambda device: abs(device.hbm_gib - hbm)
        )
        name = nearest_device.name if known else properties.name
        device = replace(nearest_device, name=name, hbm_gib=hbm, ddr_gib=memory)
    return Cluster(max(1, world // ranks), ranks, device)

"""Devices that a plan can be made for, and what is known of them.

Capacities are what the driver leaves to a program; bandwidths are peaks of the data sheets, a rank
and direction, in GB/s (10⁹ bytes). Peaks are not reached: estimates made with them compare plans,
they do not predict seconds. Memory and bandwidth of the host and of the network are those of the
usual eight-GPU machine (DGX or HGX) of that GPU: override them in a topology file where yours
differ.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One rank's device, its share of a host, and what connects it to the others.

    Args:
        name: as a topology names it.
        compute: `cuda` or `cpu`, as TorchRec names it.
        hbm_gib: memory of the device, GiB; 0 for a CPU.
        ddr_gib: memory of a host, GiB, shared by its ranks.
        hbm_gbs: bandwidth of the device's memory, GB/s.
        ddr_gbs: bandwidth of a host's memory, GB/s, shared by its ranks.
        host_to_device_gbs: PCIe or its like, GB/s a rank.
        intra_gbs: to another rank of the host, GB/s a rank.
        inter_gbs: to a rank of another host, GB/s a rank.
    """

    name: str
    compute: str
    hbm_gib: float
    ddr_gib: float
    hbm_gbs: float
    ddr_gbs: float
    host_to_device_gbs: float
    intra_gbs: float
    inter_gbs: float


# Sources: NVIDIA's data sheets of V100, A100, H100, H200, B200 and L40S (HBM, NVLink, half of the
# bidirectional figure), of DGX-1, DGX A100, DGX H100, DGX H200, DGX B200 (host memory, one network
# card a GPU: 100, 200 and 400 Gb/s), and the hosts' CPUs (memory channels × rate, two sockets).
DEVICES = {
    device.name.lower(): device
    for device in (
        Device("V100", "cuda", 31.7, 512, 900, 154, 16, 150, 12.5),
        Device("A100-40", "cuda", 39.4, 1024, 1555, 409, 32, 300, 25),
        Device("A100-80", "cuda", 79.1, 2048, 2039, 409, 32, 300, 25),
        Device("L40S", "cuda", 44.5, 1024, 864, 614, 32, 32, 25),  # no NVLink: PCIe
        Device("H100", "cuda", 79.1, 2048, 3350, 614, 64, 450, 50),
        Device("H200", "cuda", 139.8, 2048, 4800, 614, 64, 450, 50),
        Device("B200", "cuda", 178.4, 2048, 7700, 717, 64, 900, 50),
        # Of a host, not of a data sheet: 128 GiB, two memory channels a rank at hand. Ranks talk
        # over gloo, which copies through the kernel: about 1 GB/s a rank on one machine.
        Device("cpu", "cpu", 0, 128, 1, 50, 1, 1, 1),
    )
}

"""Topologies as words and as files."""

from pathlib import Path

import pytest

from recsys.errors import UserError
from recsys.sharding.devices import DEVICES, GIB
from recsys.sharding.topology import machine_at_hand, parse_topology


def test_words() -> None:
    cluster = parse_topology("2x8xh100")
    assert (cluster.nodes, cluster.ranks, cluster.world) == (2, 8, 16)
    assert cluster.label == "2x8xH100"
    found = cluster.torchrec()
    assert (found.world_size, found.local_world_size, found.compute_device) == (16, 8, "cuda")
    assert found.devices[15].storage.hbm == cluster.hbm_bytes == int(79.1 * GIB)
    assert found.devices[15].storage.ddr == 256 * GIB  # an eighth of a host's
    # TorchRec counts bytes a millisecond.
    assert found.hbm_mem_bw == pytest.approx(3350e6)
    assert found.intra_host_bw == pytest.approx(450e6)
    assert found.inter_host_bw == pytest.approx(50e6)
    assert found.ddr_mem_bw == pytest.approx(614e6 / 8)


@pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))
def test_every_known_device_is_whole(device) -> None:
    assert parse_topology(f"1x8x{device.name}").device is device
    assert (device.hbm_gib > 0) == (device.compute == "cuda")
    assert device.intra_gbs >= device.inter_gbs
    assert device.host_to_device_gbs < device.hbm_gbs or device.compute == "cpu"


def test_a_cpu_has_no_device_memory() -> None:
    found = parse_topology("1x2xcpu").torchrec()
    assert found.compute_device == "cpu"
    assert [(d.storage.hbm, d.storage.ddr) for d in found.devices] == [(0, 64 * GIB)] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2x8xH1000", "unknown device H1000; did you mean H100?; describe others in a YAML file"),
        ("0x8xH100", "--topology 0x8xH100: needs at least one node and one rank"),
        ("8xH100", "--topology 8xH100: is neither NODESxRANKSxDEVICE (for example 2x8xH100) nor"),
    ],
)
def test_words_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_topology(text)
    assert message in str(caught.value)


def written(folder: Path, text: str) -> str:
    path = folder / "topology.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_over_a_known_device(tmp_path: Path) -> None:
    text = "{nodes: 2, ranks: 4, device: H100, ddr_gib: 512, inter_gbs: 25}"
    cluster = parse_topology(written(tmp_path, text))
    assert cluster.label == "2x4xH100"
    assert (cluster.device.ddr_gib, cluster.device.inter_gbs) == (512, 25)
    assert cluster.device.hbm_gbs == 3350
    assert cluster.ddr_bytes == 128 * GIB


def test_a_file_of_an_own_device(tmp_path: Path) -> None:
    text = (
        "{nodes: 1, ranks: 2, device: Mine, compute: cuda, hbm_gib: 10, ddr_gib: 20, hbm_gbs: 500, "
        "ddr_gbs: 50, host_to_device_gbs: 8, intra_gbs: 8, inter_gbs: 1}"
    )
    assert parse_topology(written(tmp_path, text)).hbm_bytes == 10 * GIB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nodes: 2, ranks: 4, device: H100, hbm: 3}", "unknown key hbm; did you mean hbm_g"),
        ("{nodes: 2, device: H100}", "ranks: missing; add this key"),
        ("{nodes: 0, ranks: 4, device: H100}", "nodes: 0: Input should be greater"),
        ("{nodes: 1, ranks: 4, device: H100, hbm_gib: 0}", "hbm_gib: 0: a CUDA device needs"),
        ("{nodes: 2, ranks: 4, device: Mine, hbm_gib: 3}", "device Mine is not known (known: V100"),
        ("[1, 2]", "is not a mapping of keys; give nodes, ranks and device"),
        ("{", "not readable as YAML"),
    ],
)
def test_files_that_are_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        parse_topology(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_other_numbers_of_ranks() -> None:
    cluster = parse_topology("2x8xH100")
    assert cluster.with_ranks(64).label == "8x8xH100"
    assert cluster.with_ranks(1).label == "1x1xH100"
    # A rank has the same memory, alone on its host or not.
    assert cluster.with_ranks(1).ddr_bytes == cluster.ddr_bytes


def test_the_machine_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    cluster = machine_at_hand(4, "cpu")
    assert (cluster.nodes, cluster.ranks, cluster.hbm_bytes) == (2, 2, 0)
    assert 0.5 < cluster.device.ddr_gib < 100_000

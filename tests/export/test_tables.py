"""Tables of an export against the rows that they store."""

import pytest
import torch

from recsys.export.tables import Int8Table, stored

ROWS = torch.tensor([0, 3, 3, 9])


@pytest.fixture
def weight() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-6, 1, 10).unsqueeze(1)
    return torch.randn(10, 16, generator=generator) * spread + 0.1


def test_fp32_rows_are_the_weights(weight: torch.Tensor):
    assert torch.equal(stored(weight, "fp32")(ROWS), weight[ROWS])


def test_fp16_rows_are_rounded_once(weight: torch.Tensor):
    found = stored(weight, "fp16")(ROWS)
    assert found.dtype == torch.float32
    assert torch.equal(found, weight[ROWS].half().float())


def test_int8_is_off_by_half_a_step_at_most(weight: torch.Tensor):
    table = stored(weight, "int8")
    rows = torch.arange(10)
    step = (weight.amax(1) - weight.amin(1)) / 255
    # The bias and the scale are fp16 themselves: 2^-11 of their size.
    slack = 2**-11 * (weight.abs().amax(1) + 255 * step)
    assert ((table(rows) - weight).abs().amax(1) <= step / 2 + slack).all()


def test_int8_takes_dim_plus_4_bytes_a_row(weight: torch.Tensor):
    assert sum(each.nbytes for each in stored(weight, "int8").buffers()) == 10 * (16 + 4)


@pytest.mark.parametrize("value", [0.0, -0.25, 3.0])
def test_a_row_of_equal_numbers_stays_what_it_is(value: float):
    weight = torch.full((2, 8), value)
    assert torch.equal(Int8Table(weight)(torch.tensor([1])), weight[1:])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_ids_read_no_rows(weight: torch.Tensor, precision: str):
    none = torch.zeros(0, dtype=torch.int64)
    assert stored(weight, precision)(none).shape == (0, 16)  # type: ignore[arg-type]

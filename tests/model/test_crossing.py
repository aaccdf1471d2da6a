"""Low-rank crosses against their formula."""

import pytest
import torch

from recsys.model.crossing import Crossing


@pytest.mark.parametrize("layers", [1, 3])
def test_crosses_are_their_formula(layers: int) -> None:
    torch.manual_seed(0)
    crossing = Crossing(6, layers, rank=2)
    with torch.no_grad():
        for parameter in crossing.parameters():
            parameter.normal_()
    x0 = torch.randn(5, 6)
    x = x0
    net = crossing.net
    for w, v, b in zip(net.W_kernels, net.V_kernels, net.bias, strict=True):
        rows = [x0[n] * (w @ (v @ x[n]) + b) + x[n] for n in range(5)]
        x = torch.stack(rows)
    expected = torch.nn.functional.layer_norm(x, (6,), crossing.norm.weight, crossing.norm.bias)
    torch.testing.assert_close(crossing(x0), expected, rtol=1e-5, atol=1e-5)

"""The split linear layer against one over the concatenation."""

import pytest
import torch
from torch import nn

from recsys.model.projection import RequestCandidateLinear


@pytest.mark.parametrize("index", [[0, 0, 1, 3], [2], []])
def test_it_is_one_linear_layer_over_both(index: list[int]) -> None:
    torch.manual_seed(0)
    split = RequestCandidateLinear(5, 3, 7)
    whole = nn.Linear(8, 7)
    with torch.no_grad():
        whole.weight.copy_(torch.cat([split.request.weight, split.candidate.weight], dim=1))
        whole.bias.copy_(split.request.bias)
    request, candidate = torch.randn(4, 5), torch.randn(len(index), 3)
    request_index = torch.tensor(index, dtype=torch.long)
    expected = whole(torch.cat([request[request_index], candidate], dim=1))
    torch.testing.assert_close(split(request, candidate, request_index), expected)

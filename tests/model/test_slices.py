"""The rows of each surface, and their gradient."""

import torch

from recsys.model.slices import Slices, pick
from tests.model.requests import collate, random_config, random_requests


def test_parts_are_slices_and_so_are_their_gradients() -> None:
    config = random_config(0)
    for surfaces in (["home", "search", "related"], ["home", "related"], ["search"]):
        batch = collate(config, random_requests(config, 10, 0, surfaces))
        first = torch.randn(batch.candidates, 4, requires_grad=True)
        second = torch.randn(batch.requests, 2, requires_grad=True)
        slices = Slices(batch)
        expected_first, expected_second = torch.zeros_like(first), torch.zeros_like(second)
        total = torch.zeros(())
        for s in range(3):
            rows = slice(*batch.candidate_offsets[s : s + 2])
            requests = slice(*batch.request_offsets[s : s + 2])
            assert torch.equal(slices.candidates(first, s), first[rows])
            assert torch.equal(slices.requests(second, s), second[requests])
            if s != 1:  # what nobody reads has no gradient
                total = total + (s + 1) * slices.candidates(first, s).sum()
                total = total + (s + 1) * slices.requests(second, s).sum()
                expected_first[rows] = s + 1
                expected_second[requests] = s + 1
        if total.requires_grad:
            total.backward()
            assert first.grad is not None
            assert torch.equal(first.grad, expected_first)
            assert second.grad is not None
            assert torch.equal(second.grad, expected_second)


def test_what_is_picked_is_what_an_index_takes() -> None:
    x = torch.randn(4, 3)
    assert torch.equal(pick(x, [2, 0]), x[[2, 0]])
    assert torch.equal(pick(x, (1,), dim=1), x[:, [1]])

"""The trunk's input vector, with the request's part computed once a request."""

from torch import Tensor, nn


class RequestCandidateLinear(nn.Module):
    """A linear layer over `[x_r; x_c]` that computes the request's part on R rows, not N.

    `W [x_r; x_c] + b = (W_r x_r)[request_index] + W_c x_c + b`
    """

    def __init__(self, request_features: int, candidate_features: int, out_features: int) -> None:
        super().__init__()
        self.request = nn.Linear(request_features, out_features)
        self.candidate = nn.Linear(candidate_features, out_features, bias=False)

    def forward(self, request: Tensor, candidate: Tensor, request_index: Tensor) -> Tensor:
        """`[R, request_features]`, `[N, candidate_features]`, `[N]` → `[N, out_features]`."""
        return self.candidate(candidate) + self.request(request).index_select(0, request_index)

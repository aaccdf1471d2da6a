"""The user's history: encoded once a request, attended to by each candidate."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.config.model import SequenceConfig
from recsys.model.attention import Attention, TransformerLayer, positions_in_runs


@dataclass(frozen=True)
class History:
    """An encoded history: R requests of up to L tokens; token 0 stands for the user as a whole."""

    tokens: Tensor  # [R, L, dim]
    mask: Tensor  # [R, L], True = a real token; token 0 always is
    request_index: Tensor  # [n], the request of each candidate that will attend
    most_candidates: int  # an upper bound of the candidates of one request

    def rows(self, requests: slice, candidates: slice) -> "History":
        """The part of one surface: a slice of the requests and of their candidates."""
        return History(
            self.tokens[requests],
            self.mask[requests],
            self.request_index[candidates] - requests.start,
            self.most_candidates,
        )


class HistoryEncoder(nn.Module):
    """A Transformer over the events of a request, computed once whatever the number of candidates.

    Event e at distance p from the newest becomes `W [its features] + position_p`; a learned token
    is put before the events, so an empty history is an ordinary input. Candidates attend to the
    output later (DCAT, arXiv:2507.12704).

    Args:
        config: `model.sequence`.
        in_features: width of an event's concatenated features.
        length: the most events a request may have.
    """

    def __init__(self, config: SequenceConfig, in_features: int, length: int) -> None:
        super().__init__()
        self.event = nn.Linear(in_features, config.dim)
        self.position = nn.Parameter(torch.randn(length, config.dim) * 0.02)
        self.user_token = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.layers = nn.ModuleList(
            TransformerLayer(config.dim, config.heads, config.feedforward, config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self,
        events: Tensor,
        lengths: Tensor,
        longest: int,
        request_index: Tensor,
        most_candidates: int,
    ) -> History:
        """Encodes the history.

        Args:
            events: `[H, in_features]`, oldest first within each request.
            lengths: `[R]` events of each request.
            longest: the largest of `lengths`, known on the host.
            request_index: `[N]`, the request of each candidate.
            most_candidates: the most candidates of one request, known on the host.
        """
        requests, dim = lengths.shape[0], self.user_token.shape[0]
        request, position = positions_in_runs(lengths, events.shape[0])
        from_newest = lengths[request] - 1 - position
        x = self.event(events) + self.position[from_newest]
        slot = request * (longest + 1) + 1 + position
        padded = x.new_zeros(requests * (longest + 1), dim).index_copy(0, slot, x)
        padded = padded.view(requests, longest + 1, dim)
        user = self.user_token.to(x.dtype).expand(requests, 1, dim)
        tokens = torch.cat([user, padded[:, 1:]], dim=1)
        mask = torch.arange(longest + 1, device=lengths.device) <= lengths.unsqueeze(1)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return History(self.norm(tokens), mask, request_index, most_candidates)


class CandidateAttention(nn.Module):
    """Each candidate attends to the encoded history of its own request.

    `a = attention(q, history)`, then `[a; a ⊙ q]` with q the candidate's projection: the product
    tells a model of additive layers at once how alike the candidate and what it found are, as in
    DIN (Zhou et al., KDD 2018).

    Candidates of a request are queries against the same keys: they are padded to the most
    candidates of one request, unless requests differ so much that copying the keys for each
    candidate is cheaper.
    """

    def __init__(self, dim: int, heads: int, in_features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.out_features = 2 * dim
        self.query = nn.Linear(in_features, dim)
        self.attention = Attention(dim, heads, dropout)

    def forward(self, candidates: Tensor, history: History) -> Tensor:
        """`candidates [n, in_features]` → `[n, 2 · dim]`."""
        queries = self.query(candidates)
        index, most_candidates = history.request_index, history.most_candidates
        requests, n = history.tokens.shape[0], queries.shape[0]
        # An exported graph has no branches: it always pads.
        if not torch.compiler.is_exporting() and requests * most_candidates > 8 * n:
            attended = self.attention(
                queries.unsqueeze(1), history.tokens[index], history.mask[index]
            )
            return self._with_product(attended.squeeze(1), queries)
        # As `bincount`, whose output has a size that no compiler knows beforehand.
        lengths = index.new_zeros(requests).index_add_(0, index, torch.ones_like(index))
        slot = index * most_candidates + positions_in_runs(lengths, n)[1]
        padded = queries.new_zeros(requests * most_candidates, queries.shape[1])
        padded = padded.index_copy(0, slot, queries).unflatten(0, (requests, most_candidates))
        attended = self.attention(padded, history.tokens, history.mask)
        return self._with_product(attended.flatten(0, 1).index_select(0, slot), queries)

    @staticmethod
    def _with_product(attended: Tensor, queries: Tensor) -> Tensor:
        return torch.cat([attended, attended * queries], dim=1)

"""Multi-head attention without the fast paths that specialise on shapes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017), batch first.

    `softmax(Q Kᵀ / √d_head) V` with a mask over keys. `nn.MultiheadAttention` is not used because
    its fast path specialises on the number of requests when a model is exported.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """`queries [b, q, dim]`, `keys [b, k, dim]`, `mask [b, k]` (True = attend) → `[b, q, dim]`.

        At least one key a row must be unmasked.
        """
        k, v = self.key_value(keys).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(queries)),
            self._split(k),
            self._split(v),
            attn_mask=mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """`[b, n, dim]` → `[b, heads, n, dim / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Pre-norm Transformer encoder layer: `x + A(LN(x))`, then `x + W_2 ReLU(W_1 LN(x))`."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, feedforward), nn.ReLU(), nn.Linear(feedforward, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x [b, n, dim]`, `mask [b, n]` (True = a real token) → `[b, n, dim]`."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


def positions_in_runs(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The run of each element and its position there, both `[total]`; total = lengths.sum()."""
    run = torch.repeat_interleave(lengths, output_size=total)
    starts = lengths.cumsum(0) - lengths
    return run, torch.arange(total, device=lengths.device) - starts[run]

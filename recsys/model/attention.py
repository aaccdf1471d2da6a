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
        k, v = map(self._split, self.key_value(keys).chunk(2, dim=-1))
        q, mask = self._split(self.query(queries)), mask[:, None, None, :]
        if torch.compiler.is_exporting():
            attended = written_out(q, k, v, mask)
        else:
            dropout = self.dropout if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """`[b, n, dim]` → `[b, heads, n, dim / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """`F.scaled_dot_product_attention` as products and a softmax, equal up to rounding.

    The fused kernels choose themselves by the shapes, so that a graph exported with them holds for
    some shapes only. `q [b, h, q, d]`, `k` and `v [b, h, k, d]`, `mask [b, 1, 1, k]` →
    `[b, h, q, d]`.
    """
    scores = torch.einsum("bhqd,bhkd->bhqk", q * q.shape[-1] ** -0.5, k)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


class TransformerLayer(nn.Module):
    """Pre-norm Transformer encoder layer: `x + A(LN(x))`, then `x + W_2 ReLU(W_1 LN(x))`.

    The last matrix of each residual branch starts at zero, so the layer starts as the identity
    (Fixup, arXiv:1901.09321): candidates first learn to attend to the events themselves, and what
    events say of each other is added to that.
    """

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        widen, narrow = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.feedforward = nn.Sequential(widen, nn.ReLU(), narrow)
        self.dropout = nn.Dropout(dropout)
        for last in (self.attention.out, narrow):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

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

"""Built-in `history_attention`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.model.sequence import CandidateAttention, History


class HistoryAttention(nn.Module):
    """Target attention of this surface's own: its inputs attend to the encoded history.

    Args:
        inputs: name → width; `history` among them, the others form the query.
        heads: attention heads.
    """

    def __init__(self, inputs: Mapping[str, int], heads: int = 2) -> None:
        super().__init__()
        widths = dict(inputs)
        if "history" not in widths or len(widths) < 2:
            raise TypeError("inputs must be `history` and at least one feature to query it with")
        dim = widths.pop("history")
        self.attention = CandidateAttention(dim, heads, sum(widths.values()))
        self.out_features = self.attention.out_features

    def forward(self, inputs: Mapping[str, Tensor | History]) -> Tensor:
        """`{name: [n, width], "history": History}` → `[n, 2 · width of the history]`."""
        features = dict(inputs)
        history: History = features.pop("history")  # type: ignore[assignment]
        return self.attention(torch.cat(list(features.values()), dim=1), history)  # type: ignore[arg-type]

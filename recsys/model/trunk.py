"""Everything that the surfaces share: history, projection, crossing, experts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.config.model import ModelConfig
from recsys.data.batch import Batch
from recsys.data.layout import IdColumn, Layout
from recsys.model.crossing import Crossing
from recsys.model.experts import Experts, expert_layers
from recsys.model.gates import GateUnit
from recsys.model.numbers import NumberTransforms
from recsys.model.projection import RequestCandidateLinear
from recsys.model.sequence import CandidateAttention, History, HistoryEncoder
from recsys.model.stems import linears


@dataclass(frozen=True)
class TrunkOutput:
    """What the towers read."""

    x: Tensor  # [N, width], after the crossing
    experts: Tensor  # [N, E, h]
    history: History | None
    stem: nn.ModuleList | None = None  # what a `StarStem` multiplies
    layers: nn.ModuleList | None = None  # shared halves of the layers of experts after the first


def _trunk_ids(layout: Layout, level: str) -> list[IdColumn]:
    return [c for c in layout.ids if c.level == level and c.feature.surfaces is None]


class Trunk(nn.Module):
    """Shared by all surfaces.

        history ─► Transformer (R) ─┐
        request features, surface ──┼► projection ─► crossing ─► experts
        candidate ─► attention (N) ─┘

    The sequence outputs are projected to a small width before the crossing. The surface is a
    request feature: its embedding is part of x_r. A surface that shares another's tower is to the
    trunk that other one.
    """

    surface_rows: Tensor  # [S], the row of `surface` of each surface of the layout

    def __init__(self, layout: Layout, config: ModelConfig) -> None:
        super().__init__()
        tables = layout.config.tables
        self.request_ids = _trunk_ids(layout, "request")
        self.candidate_ids = _trunk_ids(layout, "candidate")
        self.history_ids = _trunk_ids(layout, "history")
        self.request_numbers = NumberTransforms(layout.numbers_of("request"))
        self.candidate_numbers = NumberTransforms(layout.numbers_of("candidate"))
        self.history_numbers = NumberTransforms(layout.numbers_of("history"))

        def width(columns: list[IdColumn], numbers: NumberTransforms) -> int:
            return sum(tables[c.feature.id].dim for c in columns) + numbers.out_features

        request_features = width(self.request_ids, self.request_numbers)
        candidate_features = width(self.candidate_ids, self.candidate_numbers)
        small = config.projection.sequence
        # As many numbers as it takes to tell the surfaces apart comfortably.
        names = [layout.config.tower_name(name) for name in layout.surfaces]
        self.surfaces = config.surfaces or layout.config.surfaces_with_towers
        self.surface = nn.Embedding(len(self.surfaces), min(16, 4 * len(self.surfaces)))
        self.register_buffer(
            "surface_rows",
            torch.tensor([self.surfaces.index(name) for name in names]),
            persistent=False,
        )
        request_features += self.surface.embedding_dim
        self.history_encoder: HistoryEncoder | None = None
        sequence = config.sequence
        if sequence is not None and layout.history_length:
            event_features = width(self.history_ids, self.history_numbers)
            self.history_encoder = HistoryEncoder(sequence, event_features, layout.history_length)
            self.candidate_attention = CandidateAttention(
                sequence.dim, sequence.heads, candidate_features, sequence.dropout
            )
            self.user_projection = nn.Linear(sequence.dim, small)
            self.attended_projection = nn.Linear(self.candidate_attention.out_features, small)
            request_features += small
            candidate_features += small
        self.projection = RequestCandidateLinear(
            request_features, candidate_features, config.projection.width
        )
        self.surface_gate: GateUnit | None = None
        if config.gates.epnet:
            known_of_row = self.surface.embedding_dim + config.projection.width
            self.surface_gate = GateUnit(known_of_row, config.projection.width)
        self.projection_norm = nn.LayerNorm(config.projection.width)
        self.dropout = nn.Dropout(config.projection.dropout)
        self.crossing: nn.Module = (
            Crossing(config.projection.width, config.crossing.layers, config.crossing.rank)
            if config.crossing
            else nn.Identity()
        )
        self.experts = Experts(
            config.projection.width,
            config.experts.count,
            config.experts.hidden,
            config.experts.dropout,
        )
        # They read what surfaces' own experts put out, and so run in the towers.
        self.layers = expert_layers(config.projection.width, config.experts.count, config.experts)
        self.stem: nn.ModuleList | None = None
        if config.towers == "star":
            first = layout.config.surfaces_with_towers[0]
            widths = layout.config.surfaces[first].tower.stem
            self.stem = linears(self.experts.out_features, widths)

    @property
    def keys(self) -> list[str]:
        """Keys of the id features the trunk reads."""
        history = self.history_ids if self.history_encoder is not None else []
        return [c.key for c in (*self.request_ids, *self.candidate_ids, *history)]

    def forward(self, batch: Batch, rows: Mapping[str, Tensor]) -> TrunkOutput:
        """Runs the trunk on a batch whose embedding rows were looked up."""
        request = [rows[c.key] for c in self.request_ids]
        request.append(self.request_numbers(batch.request_numbers))
        surface = self.surface(self.surface_rows[batch.request_surface_index])
        request.append(surface)
        candidate = [rows[c.key] for c in self.candidate_ids]
        candidate.append(self.candidate_numbers(batch.candidate_numbers))
        candidate_row = torch.cat(candidate, dim=1)
        history = None
        if self.history_encoder is not None:
            events = [rows[c.key] for c in self.history_ids]
            events.append(self.history_numbers(batch.history_numbers))
            history = self.history_encoder(
                torch.cat(events, dim=1),
                batch.history_lengths,
                batch.longest_history,
                batch.request_index,
                batch.most_candidates,
            )
            attended = self.candidate_attention(candidate_row, history)
            request.append(self.user_projection(history.tokens[:, 0]))
            candidate_row = torch.cat([candidate_row, self.attended_projection(attended)], dim=1)
        x = self.projection(torch.cat(request, dim=1), candidate_row, batch.request_index)
        x = self.projection_norm(x)
        if self.surface_gate is not None:
            x = x * self.surface_gate(surface.index_select(0, batch.request_index), x)
        x = self.crossing(self.dropout(x))
        return TrunkOutput(x, self.experts(x), history, self.stem, self.layers)

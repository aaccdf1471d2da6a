"""The shared trunk."""

from typing import Literal

from pydantic import Field, model_validator

from recsys.config.section import Section, Widths


class SequenceConfig(Section):
    """`model.sequence:` – the Transformer over the history, run once a request."""

    dim: int = Field(64, ge=8, description="Width of a token; a multiple of `heads`")
    layers: int = Field(2, ge=1, description="Transformer layers")
    heads: int = Field(4, ge=1, description="Attention heads, also of the candidates' attention")
    feedforward: int = Field(128, ge=8, description="Hidden width of a layer's MLP")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="In attention and after each block; slow on CPU"
    )

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> "SequenceConfig":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class ProjectionConfig(Section):
    """`model.projection:` – widths before the crossing."""

    sequence: int = Field(32, ge=4, description="Width of each sequence output")
    width: int = Field(256, ge=8, description="Width of the trunk's input vector x_0")
    dropout: float = Field(0.0, ge=0, lt=1, description="On x_0")


class CrossingConfig(Section):
    """`model.crossing:` – DCNv2, low rank."""

    layers: int = Field(2, ge=1, description="Cross layers")
    rank: int = Field(64, ge=1, description="Of each layer's matrices; about width / 4 is enough")


class ExpertsConfig(Section):
    """`model.experts:` – MMoE; one gate a (surface, task). With `own` and `layers`, PLE."""

    count: int = Field(3, ge=1, description="Number of experts that the surfaces share")
    own: int = Field(
        0, ge=0, description="Experts that each surface has besides, run on its rows only (PLE)"
    )
    layers: int = Field(
        1, ge=1, description="Layers of experts, one on the mixtures of the other; needs `own`"
    )
    hidden: Widths = Field((256, 128), min_length=1, description="Widths of each expert")
    dropout: float = Field(0.0, ge=0, lt=1, description="After each layer of an expert")

    @model_validator(mode="after")
    def _layers_are_for_own_experts(self) -> "ExpertsConfig":
        if self.layers > 1 and not self.own:
            raise ValueError(f"layers {self.layers} needs experts of surfaces; give own: 1")
        return self


class GatesConfig(Section):
    """`model.gates:` – PEPNet's: layers scaled by what is known beforehand. They start at 1."""

    epnet: bool = Field(False, description="Scale x_0 by the surface")
    ppnet: tuple[str, ...] = Field(
        (), description="Id features, such as user_id, that scale each layer of every tower's stem"
    )


class CalibrationConfig(Section):
    """`model.calibration:` – from logits to calibrated logits, per (surface, task).

    Trained in the same run on each surface's own traffic; the rest of the model gets no gradient
    from it, and no ranking inside a surface changes. `recsys calibrate` refits it on fresh data.
    """

    kind: Literal["none", "global", "platt", "isotonic"] = Field(
        "none",
        description="platt: a z + b, a > 0. isotonic: strictly increasing, piecewise linear. "
        "global: one platt a task for all surfaces, the control. The default keeps older runs and "
        "exports what they are; the shipped configurations use platt",
    )
    buckets: int = Field(
        32, ge=2, multiple_of=2, description="isotonic: pieces between −limit and limit"
    )
    limit: float = Field(
        8.0, gt=0, description="isotonic: the logit beyond which the outermost slopes go on"
    )


class ModelConfig(Section):
    """`model:` – the trunk's blocks, in the order the data passes them. null leaves one out."""

    sequence: SequenceConfig | None = Field(
        SequenceConfig(), description="The history Transformer; null reads no history at all"
    )
    projection: ProjectionConfig = Field(ProjectionConfig(), description="x_0 of the crossing")
    crossing: CrossingConfig | None = Field(CrossingConfig(), description="null: no crosses")
    experts: ExpertsConfig = Field(ExpertsConfig(), description="The mixture of experts")
    gates: GatesConfig = Field(GatesConfig(), description="Gates by surface and by user")
    towers: Literal["surface", "shared", "star"] = Field(
        "surface",
        description="shared: one tower for all surfaces, the control for towers. star: the weights "
        "of a stem are the product of shared ones and its own",
    )
    calibration: CalibrationConfig = Field(
        CalibrationConfig(), description="The calibrators, after the heads"
    )
    surfaces: tuple[str, ...] | None = Field(
        None,
        description="Surfaces that the trunk tells apart. Default: those that are trained. An "
        "export writes the joint model's here, so that its trunk goes on to fit",
    )

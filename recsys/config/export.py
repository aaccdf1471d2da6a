"""What an export is, and how far it may be from the model that it comes from."""

from typing import Literal

from pydantic import Field

from recsys.config.section import Section

Precision = Literal["fp32", "fp16", "int8"]


class LimitsConfig(Section):
    """`export.limits:` – an export that is past one of these on real rows is not written.

    The references are the joint model itself, and its view of the surface: both in fp32 and outside
    the export.
    """

    probability: float = Field(
        1e-6, gt=0, description="fp32 tables: largest difference of a probability"
    )
    auc: float = Field(5e-4, gt=0, description="Largest difference of AUC, of each task")
    ne: float = Field(1e-3, gt=0, description="Largest relative difference of NE, of each task")


class DriftConfig(Section):
    """`export.drift:` – `recsys drift` says re-baseline past any of these."""

    trunk: float = Field(
        0.10, gt=0, description="‖θ − θ₀‖ / ‖θ₀‖ over the trunk's weights and the tables"
    )
    psi: float = Field(0.10, gt=0, description="Population stability index of a task's scores")
    ne: float = Field(
        0.005, gt=0, description="Relative NE by which the baseline is better on the rows given"
    )
    pcoc: float = Field(
        0.05, gt=0, description="How much farther from 1 the version's PCOC is than the baseline's"
    )


class FinetuneConfig(Section):
    """`export.finetune:` – `recsys finetune`, on one surface's fresh data.

    `L + (l2 / 2) · ‖θ − θ₀‖²` is minimised, θ₀ the weights of the export that it begins with.
    """

    mode: Literal["tower", "trunk_top", "all"] = Field(
        "tower",
        description="What is trained. tower: the surface's tower and the tables that it alone "
        "reads. trunk_top: the trunk's crossing and experts too. all: everything",
    )
    epochs: int = Field(3, ge=1, description="Passes over the fresh train split; the best is kept")
    lr: float = Field(5e-4, gt=0, description="Of Adam, on everything but tables")
    table_lr: float = Field(0.005, gt=0, description="Of Adagrad, on tables that are trained")
    l2: float = Field(1e-3, ge=0, description="Pull of what is trained to where it was")


class ExportConfig(Section):
    """`export:` – one surface's artefact."""

    embeddings: Precision = Field(
        "fp32", description="Of the tables. int8: 8 bits a number, fp16 scale and bias a row"
    )
    split: Literal["train", "valid", "test"] = Field(
        "test", description="Rows that parity and the metrics of the manifest are measured on"
    )
    candidates: int = Field(
        200_000, ge=1, description="About how many candidates of that split are scored"
    )
    limits: LimitsConfig = Field(LimitsConfig(), description="Past these an export fails")
    finetune: FinetuneConfig = Field(FinetuneConfig(), description="How `recsys finetune` trains")
    drift: DriftConfig = Field(DriftConfig(), description="Thresholds of `recsys drift`")


class Recipe(Section):
    """A recipe: in what an export differs from the joint model's view of its surface.

    A YAML file of its own, given to `recsys export --recipe`; the manifest records it.
    """

    tasks: tuple[str, ...] | None = Field(
        None, min_length=1, description="Heads to export. Default: all of the surface"
    )
    embeddings: Precision | None = Field(
        None, description="Of the tables. Default: `export.embeddings`"
    )
    tables: dict[str, Precision] = Field(
        default_factory=dict, description="Table → its precision, where it is another one"
    )
    history_length: int | None = Field(
        None, ge=1, description="Latest events read. Default: `features.history.length`"
    )
    aot: bool = Field(
        False,
        description="Besides the program, a package that AOTInductor compiled for processors like "
        "that of the machine that exports; it needs a C++ compiler",
    )
    tower: str | None = Field(
        None,
        description="Folder of a fine-tuned export of this surface: its tower is taken, with the "
        "features and tables that are the surface's own",
    )

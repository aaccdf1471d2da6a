"""Optimisation and the run."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class SparseConfig(Section):
    """`training.sparse:` – row-wise Adagrad on the tables, fused into the backward pass."""

    lr: float = Field(0.02, gt=0, description="Learning rate")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the accumulator")
    weight_decay: float = Field(0.0, ge=0, description="L2, on the rows that a step reads")


class DenseConfig(Section):
    """`training.dense:` – Adam on everything else."""

    lr: float = Field(1e-3, gt=0, description="Learning rate after the warm-up")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Of Adam's two averages")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second average")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled (AdamW)")
    warmup_steps: int = Field(100, ge=0, description="Linear warm-up from 0")
    decay: Literal["none", "linear", "cosine"] = Field(
        "none", description="Of all learning rates, to 0 at the end of the last epoch"
    )
    clip_norm: float | None = Field(1.0, gt=0, description="Global norm of the dense gradient")


class CalibratorsConfig(Section):
    """`training.calibration:` – Adam on the calibrators (`model.calibration`), without weight decay
    or clipping. Its rate decays as `training.dense.decay` says."""

    lr: float = Field(
        0.002, gt=0, description="Learning rate; higher follows the model faster, with more noise"
    )


class BalanceConfig(Section):
    """`training.balance:` – what each (surface, task) weighs in the loss, besides the weights of
    `surfaces`."""

    kind: Literal["fixed", "uncertainty"] = Field(
        "fixed",
        description="uncertainty: and by a variance that is learned for each of them (Kendall et "
        "al. 2018): one whose loss stays high weighs less",
    )
    lr: float = Field(
        0.005, gt=0, description="Learning rate of the log variances; decays as the dense one"
    )


class EarlyStoppingConfig(Section):
    """`training.early_stopping:` – on the valid split, after each epoch."""

    monitor: Literal["auc", "ne", "logloss", "none"] = Field(
        "auc",
        description="Mean over tasks, all surfaces together. none: the latest epoch is the best, "
        "for a run whose epochs were chosen before",
    )
    patience: int = Field(1, ge=1, description="Epochs without a better value before stopping")


class CheckpointConfig(Section):
    """`training.checkpoint:` – besides the one at the end of each epoch."""

    every_steps: int | None = Field(None, ge=1, description="null: at the end of epochs only")
    keep: int = Field(2, ge=1, description="Latest checkpoints kept, besides the best")
    in_background: bool = Field(
        True,
        alias="async",
        description="Write while training goes on, from a copy in host memory that is as large as "
        "tables and optimizer state of a rank",
    )


class TrainingConfig(Section):
    """`training:` – the run."""

    epochs: int = Field(1, ge=1, description="Passes over the train split, at most")
    batch_candidates: int = Field(
        2048, ge=1, description="Most candidates a rank takes in one step; a request is never split"
    )
    loss: Literal["cell", "task"] = Field(
        "cell",
        description="What a loss is averaged over. cell: each (surface, task) counts by its "
        "weights alone, however few its labels. task: each known label of a task counts the same.",
    )
    balance: BalanceConfig = Field(
        BalanceConfig(), description="Weights of surfaces and tasks against each other"
    )
    sparse: SparseConfig = Field(SparseConfig(), description="Optimizer of the tables")
    dense: DenseConfig = Field(DenseConfig(), description="Optimizer of everything else")
    calibration: CalibratorsConfig = Field(
        CalibratorsConfig(), description="Optimizer of the calibrators"
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="bf16: autocast of the dense part. tf32: CUDA only"
    )
    pipeline: Literal["auto", "none", "sparse", "prefetch"] = Field(
        "auto",
        description="sparse: TorchRec's pipeline overlaps the exchange of ids with compute. "
        "prefetch: and the filling of caches. auto: on CUDA; prefetch if the plan has caches",
    )
    seed: int = Field(1, ge=0, description="Of initial weights, order of the data, and dropout")
    threads: int | None = Field(None, ge=1, description="CPU threads a rank. Default: torch's own")
    log_every_steps: int = Field(20, ge=1, description="Steps a line of metrics.jsonl")
    early_stopping: EarlyStoppingConfig = Field(
        EarlyStoppingConfig(), description="When to stop, and which step is the best"
    )
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="When, and how many")
    warm_start: str | None = Field(
        None, description="Another run, whose weights a new run takes where they match"
    )
    timeout_seconds: int = Field(600, ge=1, description="Longest wait for another rank")

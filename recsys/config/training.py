"""Optimisation and the run."""

from typing import Literal

from pydantic import Field

from recsys.config.section import Section


class SparseConfig(Section):
    """`training.sparse:` – row-wise Adagrad on the tables, fused into the backward pass."""

    lr: float = Field(0.02, gt=0)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)


class DenseConfig(Section):
    """`training.dense:` – Adam on everything else."""

    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="Decoupled (AdamW)")
    warmup_steps: int = Field(100, ge=0, description="Linear warm-up from 0")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="To 0 at the last epoch")
    clip_norm: float | None = Field(1.0, gt=0, description="Global norm of the dense gradient")


class EarlyStoppingConfig(Section):
    """`training.early_stopping:` – on the valid split, after each epoch."""

    monitor: Literal["auc", "ne", "logloss"] = Field(
        "auc", description="Mean over tasks, all surfaces together"
    )
    patience: int = Field(1, ge=1, description="Epochs without a better value before stopping")


class CheckpointConfig(Section):
    """`training.checkpoint:` – besides the one at the end of each epoch."""

    every_steps: int | None = Field(None, ge=1)
    keep: int = Field(2, ge=1, description="Latest checkpoints kept, besides the best")


class TrainingConfig(Section):
    """`training:` – the run."""

    epochs: int = Field(1, ge=1)
    batch_candidates: int = Field(
        2048, ge=1, description="Most candidates a rank takes in one step; a request is never split"
    )
    loss: Literal["cell", "task"] = Field(
        "cell",
        description="What a loss is averaged over. cell: each (surface, task) counts by its "
        "weights alone, however few its labels. task: each known label of a task counts the same.",
    )
    sparse: SparseConfig = SparseConfig()
    dense: DenseConfig = DenseConfig()
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="bf16: autocast of the dense part. tf32: CUDA only"
    )
    seed: int = Field(1, ge=0)
    threads: int | None = Field(None, ge=1, description="CPU threads a rank. Default: torch's own")
    log_every_steps: int = Field(20, ge=1)
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    timeout_seconds: int = Field(600, ge=1, description="Longest wait for another rank")

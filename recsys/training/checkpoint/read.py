"""Reading the tensors of a checkpoint."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from recsys.errors import UserError


def cause_of(error: BaseException) -> BaseException:
    """What DCP met: it wraps the exception of each rank, with its traceback, in one of its own."""
    if isinstance(error, CheckpointException) and error.failures:
        return next(iter(error.failures.values()))[0]
    return error


def load(checkpoint: Path, tensors: dict[str, Any], *, alone: bool) -> None:
    """Fills `tensors` in place from a complete checkpoint.

    With `alone` no process group is needed, and sharded tables are read into whole tensors.
    Raises `UserError` if the checkpoint does not have one of them in this shape.
    """
    try:
        dcp.load(tensors, checkpoint_id=str(checkpoint), no_dist=alone)
    except (RuntimeError, ValueError, KeyError, CheckpointException) as error:
        cause = cause_of(error)
        reason = " ".join(str(cause).split())[:300]
        raise UserError(f"{checkpoint}: does not fit this configuration: {reason}") from cause


def shapes(checkpoint: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Size and type of every tensor of a complete checkpoint, by its name."""
    metadata = FileSystemReader(str(checkpoint)).read_metadata().state_dict_metadata
    return {
        name: (each.size, each.properties.dtype)
        for name, each in metadata.items()
        if isinstance(each, TensorStorageMetadata)
    }


def whole_tensor(checkpoint: Path, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """One tensor of a complete checkpoint, whole, by its name; needs no other rank."""
    size, stored = shapes(checkpoint)[name]
    found = {name: torch.empty(size, dtype=dtype or stored)}
    load(checkpoint, found, alone=True)
    return found[name]

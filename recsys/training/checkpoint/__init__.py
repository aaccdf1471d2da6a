"""Checkpoints of a run: complete or invisible, and without trusting a pickle blindly.

    checkpoints/step-0000001200/   DCP files, state.json, complete.json (checksums)
    checkpoints/best.json          which step validated best

A checkpoint is written beside its name and renamed once `complete.json` holds the SHA-256 of every
file. DCP's own `.metadata` is a pickle: it is opened only after the checksums held, and only from a
run directory. Everything that is not a tensor is in `state.json`.
"""

from recsys.training.checkpoint.folder import (
    BEST,
    best,
    is_complete,
    latest,
    mark_best,
    prune,
    step_name,
    steps,
    tidy,
)
from recsys.training.checkpoint.progress import Progress, read_progress
from recsys.training.checkpoint.randomness import random_state, set_random_state
from recsys.training.checkpoint.read import load, whole_tensor
from recsys.training.checkpoint.write import Writer

__all__ = [
    "BEST",
    "Progress",
    "Writer",
    "best",
    "is_complete",
    "latest",
    "load",
    "mark_best",
    "prune",
    "random_state",
    "read_progress",
    "set_random_state",
    "step_name",
    "steps",
    "tidy",
    "whole_tensor",
]

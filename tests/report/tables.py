"""Predictions tables of two systems on the same rows."""

from pathlib import Path
from typing import Any

import numpy as np

from recsys.evaluation.predictions import PredictionsWriter


def predictions(noise: float = 0.0, seed: int = 0, users: int = 60, count: int = 1_500) -> dict:
    """Two surfaces, `like` on home only; `noise` makes the scores worse, not the rows different."""
    generator = np.random.default_rng(0)
    request = np.sort(generator.integers(0, count // 4, count))
    first = np.r_[True, request[1:] != request[:-1]]
    position = np.arange(count) - np.maximum.accumulate(np.where(first, np.arange(count), 0))
    user = generator.integers(0, users, count // 4)[request]
    surface = np.where(request % 3 == 0, "search", "home")
    logit = generator.normal(-1, 1.5, count)
    label = (generator.random(count) < 1 / (1 + np.exp(-logit))).astype(float)
    likes = (generator.random(count) < 0.1).astype(float)
    scores = logit + noise * np.random.default_rng(seed + 1).normal(size=count)
    return {
        "request_id": request,
        "candidate": position,
        "surface": surface,
        "time": 1_700_000_000_000 + 86_400_000 * (request % 4),
        "group": user,
        "click": 1 / (1 + np.exp(-scores)),
        "logit.click": 1.5 * scores + 0.3,
        "label.click": label,
        "like": np.ma.array(np.full(count, 0.1), mask=surface == "search"),
        "logit.like": np.full(count, -2.0),
        "label.like": likes,
        "age": user % 40,
    }


def write(folder: Path, data: dict[str, Any]) -> Path:
    with PredictionsWriter(folder) as writer:
        writer.append(data)
    return folder

"""Which calibration holds tomorrow? Fits on all days of a split but the last, judges on the last.

    recsys evaluate RUN --split valid
    python scripts/calibration_by_day.py RUN/predictions/valid

Reads a predictions table alone: the logits before calibration, and what the run made of them.
Prints PCOC and NE of each (surface, task), Field-ECE by surface, and its difference from `global`,
each with a standard error over 1,000 resamples of users.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from recsys.config.model import CalibrationConfig
from recsys.evaluation.metrics import codes, field_ece, normalized_entropy, pcoc
from recsys.model.calibration import build_calibrator
from recsys.training.refit import refit, why_not

Floats = NDArray[np.float64]
KINDS = ("none", "run", "global", "platt", "isotonic")
HOUR_MS = 3_600_000


def calibrated(
    kind: str, logit: Floats, label: Floats, surface: NDArray[np.int64], fit: NDArray[np.bool_]
) -> Floats:
    """Probabilities [N]; calibrators are fitted to the rows `fit` [N], a global one to all."""
    p = 1 / (1 + np.exp(-logit))
    for s in np.unique(surface):
        rows = surface == s
        known = fit & ~np.isnan(label) & (rows if kind != "global" else True)
        labels = torch.tensor(label[known])
        if kind == "none" or why_not(labels):
            continue
        calibrator = build_calibrator(CalibrationConfig(kind=kind), ("task",))
        assert calibrator is not None
        refit(calibrator, torch.tensor(logit[known]), labels)
        with torch.no_grad():
            z = calibrator(torch.tensor(logit[rows])[:, None], ("task",))
        p[rows] = z[:, 0].sigmoid().numpy()
    return p


def main(table: Path, tasks: list[str], zone: int) -> None:
    found = pq.read_table(table)
    order = [("request_id", "ascending"), ("candidate", "ascending")]
    found = found.sort_by(order)  # type: ignore[arg-type]
    names = sorted(set(found["surface"].to_pylist()))
    surface = np.array([names.index(s) for s in found["surface"].to_pylist()])
    day = (found["time"].to_numpy() + zone * HOUR_MS) // (24 * HOUR_MS)
    last = day == day.max()
    user = codes(found["group"])[last]
    users = user.max() + 1
    weight = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), 1000)
    print(
        f"fitted to {int((~last).sum()):,} rows, judged on the {int(last.sum()):,} of the last day"
    )
    for task in tasks or [n[6:] for n in found.column_names if n.startswith("label.")]:
        logit, label, run = (
            found[name].to_numpy().astype(float)
            for name in (f"logit.{task}", f"label.{task}", task)
        )
        known = last & ~np.isnan(label) & ~np.isnan(logit)
        inside = known[last]
        p_of = {
            kind: run if kind == "run" else calibrated(kind, logit, label, surface, ~last)
            for kind in KINDS
        }
        sums = {}  # [B, S], Σ (p − y) of each resample
        rows = weight @ np.bincount(user[inside], minlength=users)
        for kind, p in p_of.items():
            gaps = []
            for s, name in enumerate(names):
                own = known & (surface == s)
                who, q, y = user[own[last]], p[own], label[own]
                p_sum, y_sum = (weight @ np.bincount(who, x, users) for x in (q, y))
                gaps.append(p_sum - y_sum)
                positives = int(y.sum())
                if not positives:
                    continue
                se = np.std((p_sum / np.maximum(y_sum, 1))[y_sum > 0])
                ne = normalized_entropy(q, y)
                print(
                    f"{task:14}{name:10}{kind:10}{positives:6} positives  "
                    f"PCOC {pcoc(q, y):.3f} ± {se:.3f}  NE {ne:.4f}"
                )
            sums[kind] = np.abs(np.stack(gaps, 1)).sum(1) / rows
        for kind, p in p_of.items():
            error = field_ece(p[known], label[known], surface[known])
            low, high = np.quantile(sums[kind] - sums["global"], [0.025, 0.975])
            ne = normalized_entropy(p[known], label[known])
            print(
                f"{task:14}{'all':10}{kind:10}Field-ECE {error:.5f} ± {sums[kind].std():.5f}, from "
                f"global {low:+.5f} to {high:+.5f}  NE {ne:.4f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="Predictions table of a split of several days.")
    parser.add_argument("--tasks", nargs="*", default=[], help="Default: all.")
    parser.add_argument("--zone", type=int, default=8, help="Hours from UTC at which a day begins.")
    arguments = parser.parse_args()
    main(arguments.table, arguments.tasks, arguments.zone)

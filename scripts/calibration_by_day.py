"""Which calibration holds tomorrow? Fits on some days, judges on later ones.

    recsys evaluate RUN --split valid; recsys evaluate RUN --split test
    python scripts/calibration_by_day.py RUN/predictions/valid            # all days but the last
    python scripts/calibration_by_day.py RUN/predictions/valid --judge RUN/predictions/test

With `--nightly` it fits anew before each day judged, to the days judged before it too.

Reads predictions tables alone: the logits before calibration, and what the run made of them.
Several tables, one a seed, of the same rows: figures are means over seeds. Prints, for each task:

- base rates of the days fitted and judged, by surface;
- PCOC of each surface, NE, and Field-ECE by surface with its difference from `global`;
- what Field-ECE chance alone would give to true probabilities on as many rows (mean |deviation| of
  the resamples): no calibrator can be expected to be below it;
- Field-ECE once a single shift of all logits has made Σ p = Σ y on the days judged. Nobody knows it
  beforehand: it shows what is left when the rate of all surfaces together had not moved.

± is a standard error, in brackets a 95 % interval, over resamples of users; the same for all.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from recsys.config.model import CalibrationConfig
from recsys.evaluation.metrics import codes, normalized_entropy
from recsys.model.calibration import Calibrator, build_calibrator
from recsys.training.refit import refit, why_not

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
# Name → (kind of calibrator, whether surfaces are near the one of all).
KINDS = {
    "none": ("none", False),
    "run": ("none", False),
    "global": ("global", False),
    "platt": ("platt", True),
    "platt, each by itself": ("platt", False),
    "isotonic": ("isotonic", True),
    "isotonic, each by itself": ("isotonic", False),
}
HOUR_MS = 3_600_000


class Rows:
    """The rows of a table to fit on or to judge on."""

    def __init__(self, path: Path, zone: int) -> None:
        order = [("request_id", "ascending"), ("candidate", "ascending")]
        self.table = pq.read_table(path).sort_by(order)  # type: ignore[arg-type]
        self.day = (self.table["time"].to_numpy() + zone * HOUR_MS) // (24 * HOUR_MS)
        self.surface = np.array(self.table["surface"].to_pylist())
        self.names = sorted(set(self.surface))

    def task(self, task: str, chosen: Mask) -> tuple[Floats, Floats, Floats, Any]:
        """Logit, label, the run's own probability and surface of the chosen, known rows."""
        z, y, p = (
            self.table[name].to_numpy().astype(float)
            for name in (f"logit.{task}", f"label.{task}", task)
        )
        known = chosen & ~np.isnan(y) & ~np.isnan(z)
        return z[known], y[known], p[known], (self.surface[known], known)


def fitted(kind: str, z: Floats, y: Floats, towards: Calibrator | None = None) -> Calibrator | None:
    """A calibrator of these rows; None where they say nothing."""
    labels = torch.tensor(y)
    found = build_calibrator(CalibrationConfig(kind=kind), ("task",))  # type: ignore[arg-type]
    if found is None or why_not(labels):
        return None
    refit(found, torch.tensor(z), labels, towards)
    return found


def calibrated(kind: str, fit: Any, judge: Any, surfaces: list[str]) -> Floats:
    """Probabilities of the rows judged."""
    (z, y, _, (of, _)), (new, _, _, (where, _)) = fit, judge
    inner, pooled = KINDS[kind]
    both = fitted(inner, z, y) if inner == "global" or pooled else None
    p = 1 / (1 + np.exp(-new))
    for name in surfaces:
        own, rows = of == name, where == name
        one = both if inner == "global" else fitted(inner, z[own], y[own], both)
        if one is not None:
            with torch.no_grad():
                found = one(torch.tensor(new[rows])[:, None], ("task",))
            p[rows] = found[:, 0].sigmoid().numpy()
    return p


def part(rows: Any, chosen: Mask) -> Any:
    """The chosen ones of what `Rows.task` gives."""
    z, y, p, (of, _) = rows
    return z[chosen], y[chosen], p[chosen], (of[chosen], None)


def joined(first: Any, second: Any) -> Any:
    """The rows of both."""
    (*values, (of, _)), (*more, (where, _)) = first, second
    both = (np.concatenate(pair) for pair in zip(values, more, strict=True))
    return *both, (np.concatenate([of, where]), None)


def calibrated_nightly(
    kind: str, fit: Any, judge: Any, day: NDArray[np.int64], surfaces: list[str]
) -> Floats:
    """As `calibrated`; each day by what was fitted to all days before it."""
    found = np.empty(len(day))
    for today in np.unique(day):
        before, now = joined(fit, part(judge, day < today)), part(judge, day == today)
        found[day == today] = calibrated(kind, before, now, surfaces)
    return found


class Resampled:
    """Sums by surface in resamples of users."""

    def __init__(self, user: NDArray[np.int64], where: Any, surfaces: list[str], count: int):
        users = int(user.max()) + 1
        drawn = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), count)
        weight = np.concatenate([np.ones((1, users)), drawn])  # the first is the rows as they are
        own = [where == name for name in surfaces]
        self.sums = lambda x: np.stack(
            [weight @ np.bincount(user[rows], x[rows], users) for rows in own], 1
        )  # [B, S]


def judged(p: Floats, y: Floats, resampled: Resampled) -> dict[str, Floats]:
    """`pcoc [B, S]`, `field_ece [B]`, `chance [B]` and `shifted [B]` as the module says."""
    rows, expected, seen = (resampled.sums(x) for x in (np.ones_like(p), p, y))
    z = np.log(p) - np.log1p(-p)
    for _ in range(20):  # Newton: the shift at which Σ p = Σ y
        q = 1 / (1 + np.exp(-z))
        z = z - (q - y).sum() / (q * (1 - q)).sum()
    q = 1 / (1 + np.exp(-z))
    wrong = expected - seen
    chance = np.abs(wrong - wrong[0]).sum(1) / rows.sum(1)
    chance[0] = chance[1:].mean()
    gap, slope = resampled.sums(q - y), resampled.sums(q * (1 - q))
    step = gap.sum(1) / slope.sum(1)  # a resample's own shift is one more step away
    return {
        "pcoc": expected / np.maximum(seen, 1),
        "field_ece": np.abs(wrong).sum(1) / rows.sum(1),
        "chance": chance,
        "shifted": np.abs(gap - step[:, None] * slope).sum(1) / rows.sum(1),
    }


def shown(values: Floats, digits: int = 3) -> str:
    return f"{values[0]:.{digits}f} ± {np.nanstd(values[1:]):.{digits}f}"


def compared(values: Floats, base: Floats) -> str:
    low, high = np.quantile((values - base)[1:], [0.025, 0.975])
    return (
        f"{shown(values, 4)}, less global {values[0] - base[0]:+.4f} "
        f"({low:+.4f} … {high:+.4f}), {values[0] / base[0]:.2f}×"
    )


def main(arguments: argparse.Namespace) -> None:
    fits = [Rows(path, arguments.zone) for path in arguments.table]
    later = [Rows(path, arguments.zone) for path in arguments.judge] or fits
    first = fits[0]
    names = [task[6:] for task in first.table.column_names if task.startswith("label.")]
    for task in arguments.tasks or names:
        found: dict[str, list[dict[str, Floats]]] = {}
        entropy: dict[str, list[float]] = {}
        for one, other in zip(fits, later, strict=True):
            last = one.day == one.day.max()
            fit = one.task(task, np.ones_like(last) if arguments.judge else ~last)
            judge = other.task(task, np.ones_like(other.day, bool) if arguments.judge else last)
            y, (where, known) = judge[1], judge[3]
            user = codes(other.table["group"])[known]
            resampled = Resampled(user, where, first.names, arguments.resamples)
            for kind in KINDS:
                if kind == "run":
                    p = judge[2]
                elif arguments.nightly:
                    p = calibrated_nightly(kind, fit, judge, other.day[known], first.names)
                else:
                    p = calibrated(kind, fit, judge, first.names)
                found.setdefault(kind, []).append(judged(p, y, resampled))
                entropy.setdefault(kind, []).append(normalized_entropy(p, y))
        own_user = codes(one.table["group"])[fit[3][1]]
        before = Resampled(own_user, fit[3][0], first.names, arguments.resamples)
        rates = [x.sums(label) / np.maximum(x.sums(np.ones_like(label)), 1)
                 for x, label in ((before, fit[1]), (resampled, y))]  # fmt: skip
        print(f"\n{task}: fitted to {len(fit[1]):,} rows, judged on {len(y):,}")
        for s, name in enumerate(first.names):
            positives = int(y[where == name].sum())
            print(
                f"  base rate {name:8} {shown(rates[0][:, s], 4)} → {shown(rates[1][:, s], 4)}  "
                f"({rates[1][0, s] / max(rates[0][0, s], 1e-9) - 1:+.1%}; {positives} positives)"
            )
        means = {
            kind: {key: np.mean([each[key] for each in seeds], axis=0) for key in seeds[0]}
            for kind, seeds in found.items()
        }
        base = means["global"]
        for kind, each in means.items():
            pcoc = "  ".join(
                f"{name} {shown(each['pcoc'][:, s])}" for s, name in enumerate(first.names)
            )
            print(f"  {kind:25} NE {np.mean(entropy[kind]):.4f}  PCOC {pcoc}")
        print(f"  Field-ECE of true probabilities, by chance: {shown(base['chance'], 4)}")
        for key, words in (("field_ece", "Field-ECE"), ("shifted", "Field-ECE, one shift")):
            for kind, each in means.items():
                print(f"  {kind:25} {words}: {compared(each[key], base[key])}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, nargs="+", help="Predictions to fit on, one a seed.")
    parser.add_argument("--judge", type=Path, nargs="*", default=[], help="Those of later days.")
    parser.add_argument("--nightly", action="store_true", help="Fit anew before each day.")
    parser.add_argument("--tasks", nargs="*", default=[], help="Default: all.")
    parser.add_argument("--zone", type=int, default=8, help="Hours from UTC at which a day begins.")
    parser.add_argument("--resamples", type=int, default=1000, help="Of users.")
    main(parser.parse_args())

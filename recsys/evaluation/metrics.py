"""Metrics of one task on one set of rows, from plain arrays.

Conventions, the same in every function:

- `probability` and `label` have shape [N]. A label that is NaN is unknown and its row contributes
  nothing. A masked probability (`numpy.ma`) is a prediction that was not made: no row either.
- Labels are 0 or 1, or a fraction between them (a soft label). Ranking metrics (AUC, GAUC, PR-AUC)
  have no value on fractional labels; the others do.
- A metric that has no value on the rows (no rows, one class) is None: never 0, never an exception.
- Logarithms are natural, sums are float64. Every row weighs the same, unless `weight` [N] is given:
  then every count, sum and mean below is weighted. `rows` and `positives` stay counts.
- NaN or a probability outside [0, 1] is an error of the input, not a value of the metric.
"""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from recsys.errors import UserError

Metrics = dict[str, int | float | None]
Weight: TypeAlias = NDArray[Any] | None

METRICS = ("auc", "gauc", "pr_auc", "logloss", "ne", "pcoc", "ece")
"""Names of the metrics in the order in which they are reported, after `rows` and `positives`."""

ECE_BINS = 100


def task_metrics(
    probability: NDArray[Any],
    label: NDArray[Any],
    group: object = None,
    weight: Weight = None,
    *,
    source: str = "",
) -> Metrics:
    """Every metric of one task on one set of rows.

    Args:
        probability: [N], the predicted probability of label 1.
        label: [N], 0 or 1; NaN where unknown.
        group: [N] of any type, e.g. the user; GAUC is None without it. See `gauc`.
        weight: [N], above 0.
        source: what errors name before the row, e.g. `test/part-0.parquet: column click`.

    Returns:
        `rows` (known labels with a prediction), `positives` (labels above 0) and `METRICS`.
    """
    p, y, known = known_rows(probability, label, source)
    groups = None if group is None else codes(group)[known]
    w = None if weight is None else weight[known]
    return {
        "rows": len(y),
        "positives": int(np.count_nonzero(y > 0)),
        "auc": auc(p, y, w),
        "gauc": None if groups is None else _gauc(p, y, groups, w),
        "pr_auc": pr_auc(p, y, w),
        "logloss": logloss(p, y, w),
        "ne": normalized_entropy(p, y, w),
        "pcoc": pcoc(p, y, w),
        "ece": ece(p, y, w),
    }


def weights(label: NDArray[Any], rate: float | NDArray[Any]) -> NDArray[np.float64]:
    """What rows weigh where a log kept a share `rate` of its negatives: 1 / rate at a label of 0.

    Sums over the rows then estimate sums over the whole traffic without bias.
    """
    return np.where(np.asarray(label) == 0, 1 / np.asarray(rate, np.float64), 1.0)


def auc(probability: NDArray[Any], label: NDArray[Any], weight: Weight = None) -> float | None:
    """Area under the ROC curve: P(p⁺ > p⁻) + ½ P(p⁺ = p⁻) over pairs of a positive and a negative.

    Needs both classes. Ties count half (torchrec's AUC does too, its GAUC does not).
    """
    p, y, w = _weighted_rows(probability, label, weight)
    return float(roc_auc_score(y, p, sample_weight=w)) if _both_classes(y) else None


def gauc(
    probability: NDArray[Any], label: NDArray[Any], group: object, weight: Weight = None
) -> float | None:
    """Grouped AUC: `Σ_g n_g · AUC_g / Σ_g n_g` over the groups that have both labels.

    n_g is the number of impressions of group g whose label is known: weights are impressions.
    torchrec's `GAUC` averages the groups unweighted, drops groups whose scores are all equal and
    breaks ties by position; here such a group counts with its AUC of ½.

    The definition that `task_metrics` and `grouped.gauc_sums` are tested against.

    Args:
        probability: [N].
        label: [N].
        group: [N] of any type. Rows whose group is null belong to no group and are left out.
    """
    p, y, known = known_rows(probability, label)
    return _gauc(p, y, codes(group)[known], None if weight is None else weight[known])


def pr_auc(probability: NDArray[Any], label: NDArray[Any], weight: Weight = None) -> float | None:
    """Average precision: `Σ_k (recall_k - recall_{k-1}) · precision_k`, the step integral.

    Needs both classes: with positives only it would be 1 whatever the model.
    """
    p, y, w = _weighted_rows(probability, label, weight)
    return float(average_precision_score(y, p, sample_weight=w)) if _both_classes(y) else None


def logloss(probability: NDArray[Any], label: NDArray[Any], weight: Weight = None) -> float | None:
    """Mean cross-entropy `-(1/N) Σ y ln p + (1 - y) ln(1 - p)`, in nats (torchrec: bits).

    p is clipped to [ε, 1 - ε], with ε the precision of the type in which the probabilities are
    given: 1.2e-7 for float32 and 2.2e-16 for float64, as scikit-learn does. A float32 probability
    of exactly 1 stands for everything above 1 - ε, so a narrower clip would invent a loss.
    """
    p, y, w = _weighted_rows(probability, label, weight)
    return float(np.average(cross_entropy(p, y), weights=w)) if len(y) else None


def normalized_entropy(
    probability: NDArray[Any], label: NDArray[Any], weight: Weight = None
) -> float | None:
    """`mean CE / H(ȳ)` with `H(ȳ) = -ȳ ln ȳ - (1 - ȳ) ln(1 - ȳ)`, ȳ the mean of these labels.

    The constant prediction ȳ has 1; lower is better. Needs 0 < ȳ < 1.
    """
    p, y, w = _weighted_rows(probability, label, weight)
    rate = np.average(y, weights=w) if len(y) else 0.0
    if not 0 < rate < 1:
        return None
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float(np.average(cross_entropy(p, y), weights=w) / entropy)


def pcoc(probability: NDArray[Any], label: NDArray[Any], weight: Weight = None) -> float | None:
    """Predicted over observed, `Σ p / Σ y`: 1 is calibrated. Needs a positive."""
    p, y, w = _weighted_rows(probability, label, weight)
    if w is not None:
        p, y = p * w, y * w
    positives = y.sum()
    return float(p.sum(dtype=np.float64) / positives) if positives > 0 else None


def ece(
    probability: NDArray[Any], label: NDArray[Any], weight: Weight = None, *, bins: int = ECE_BINS
) -> float | None:
    """Expected calibration error `Σ_b n_b/N · |ȳ_b - p̄_b|` over equal-width bins of p.

    Bin b is [b/bins, (b + 1)/bins); the last one includes 1 (torchmetrics keeps that value apart).
    """
    p, y, w = _weighted_rows(probability, label, weight)
    bin_of = np.digitize(p, np.linspace(0, 1, bins + 1)[1:-1])
    return _gap_between_means(p, y, bin_of, w)


def field_ece(
    probability: NDArray[Any], label: NDArray[Any], field: object, weight: Weight = None
) -> float | None:
    """Field-ECE `Σ_v n_v/N · |ȳ_v - p̄_v|` over the values v of a field, e.g. the surface.

    Pan et al., "Field-aware Calibration" (WWW 2020). `field` is [N] of any type; null is a value
    like any other. The definition that `fields.field_ece` is tested against.
    """
    p, y, known = known_rows(probability, label)
    w = None if weight is None else weight[known]
    return _gap_between_means(p, y, codes(field)[known] + 1, w)


def codes(values: object) -> NDArray[np.int64]:
    """[N] values of any type → [N] codes from 0, equal where the values are; -1 where null."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, np.int64)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def known_rows(
    probability: NDArray[Any], label: NDArray[Any], source: str = ""
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_]]:
    """Checks [N] probabilities and labels; returns those of the known rows and the [N] row mask.

    Raises `UserError` that names `source` and the first row that is NaN or outside [0, 1].
    """
    p, y = np.ma.getdata(probability), np.ma.asarray(label, np.float64).filled(np.nan)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(f"probability {p.shape} and label {y.shape} must both be [N]")
    predicted = ~np.ma.getmaskarray(probability)
    if p.dtype.kind != "f":
        p = p.astype(np.float64)
    check_unit_interval(p, source, "probability", where=predicted)
    known = predicted & ~np.isnan(y)
    check_unit_interval(y, source, "label", where=known)
    return p[known], y[known], known


def _weighted_rows(
    probability: NDArray[Any], label: NDArray[Any], weight: Weight
) -> tuple[NDArray[Any], NDArray[np.float64], Weight]:
    """Probabilities, labels and weights of the known rows."""
    p, y, known = known_rows(probability, label)
    return p, y, None if weight is None else weight[known]


def check_unit_interval(
    values: NDArray[Any],
    source: str,
    name: str,
    *,
    where: NDArray[np.bool_] | None = None,
    first_row: int = 0,
) -> None:
    """Raises `UserError` for the first of `values` [N] that is NaN or outside [0, 1].

    `where` [N] limits the check; `first_row` is the row of `values[0]` in what `source` names.
    """
    # Written so that NaN, which compares false with everything, is caught too.
    bad = ~((values >= 0) & (values <= 1))
    if where is not None:
        bad &= where
    if not bad.any():
        return
    row = int(np.argmax(bad))
    raise UserError(
        f"{source + ', ' if source else ''}row {first_row + row}: the {name} is {values[row]} "
        f"({int(bad.sum())} such rows); it must be within 0 and 1, or null where there is none"
    )


def _both_classes(y: NDArray[np.float64]) -> bool:
    """Whether `y` holds 0 and 1 and nothing else, so that ranking metrics have a value."""
    positives = int(np.count_nonzero(y == 1))
    return 0 < positives < len(y) and positives + int(np.count_nonzero(y == 0)) == len(y)


def _gauc(
    p: NDArray[Any], y: NDArray[np.float64], group: NDArray[np.int64], weight: Weight
) -> float | None:
    """`gauc` on known rows and group codes [N], -1 where a row has no group."""
    w = np.ones_like(y) if weight is None else weight
    p, y, w, group = p[group >= 0], y[group >= 0], w[group >= 0], group[group >= 0]
    if not _both_classes(y):
        return None
    values, impressions = auc_of_groups(p, y, group, w)
    has_value = ~np.isnan(values)
    if not has_value.any():
        return None
    return float(np.average(values[has_value], weights=impressions[has_value]))


def cross_entropy(p: NDArray[Any], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cross-entropy `[N]` of checked rows, clipped as `logloss` says."""
    epsilon = float(np.finfo(p.dtype).eps)
    clipped = np.clip(p.astype(np.float64), epsilon, 1 - epsilon)
    return -(y * np.log(clipped) + (1 - y) * np.log1p(-clipped))


def _gap_between_means(
    p: NDArray[Any], y: NDArray[np.float64], bin_of: NDArray[np.int64], weight: Weight
) -> float | None:
    """`Σ_b n_b/N · |ȳ_b - p̄_b|` = `Σ_b |Σ_{i in b} y_i - p_i| / N`."""
    if not len(y):
        return None
    gaps, total = (y - p, len(y)) if weight is None else ((y - p) * weight, weight.sum())
    return float(np.abs(np.bincount(bin_of, weights=gaps)).sum() / total)


def auc_of_groups(
    p: NDArray[Any], y: NDArray[np.float64], g: NDArray[np.int64], w: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC (NaN where one class) and impressions of each group.

    `AUC_g = Σ_i w_i y_i (negatives below i + ½ negatives tied with i) / (positives · negatives)`,
    all counted by their weights. One sort of all rows serves all groups.
    """
    order = np.lexsort((p, g))
    p, y, g, w = p[order], y[order], g[order], w[order]
    group_starts = np.flatnonzero(np.r_[True, g[1:] != g[:-1]])
    sizes = np.diff(np.r_[group_starts, len(g)])
    tie_starts = np.flatnonzero(np.r_[True, (g[1:] != g[:-1]) | (p[1:] != p[:-1])])
    tie_sizes = np.diff(np.r_[tie_starts, len(g)])
    below = np.r_[0.0, np.cumsum(w * (1 - y))]  # negatives before each row, of all groups
    tied = below[tie_starts + tie_sizes] - below[tie_starts]
    under = np.repeat(below[tie_starts] + tied / 2, tie_sizes)
    under -= np.repeat(below[group_starts], sizes)
    positives = np.add.reduceat(w * y, group_starts)
    impressions = np.add.reduceat(w, group_starts)
    with np.errstate(invalid="ignore"):  # 0/0 in a group with one class: NaN is what we want
        values = np.add.reduceat(w * y * under, group_starts) / (
            positives * (impressions - positives)
        )
    return values, impressions

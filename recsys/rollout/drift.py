"""How far a version has gone from the joint baseline that it comes from."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recsys.config import Config
from recsys.config.export import DriftConfig
from recsys.data.splits import Split, open_table, own_rows
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.export.artefact import Artefact, is_artefact
from recsys.export.parity import Compared, score_of_view
from recsys.export.rows import labelled_batches
from recsys.export.tower import find_tower
from recsys.export.view import view_of_run
from recsys.model.lookup import PlainLookup
from recsys.model.unified import UnifiedModel
from recsys.run_directory import RunDirectory

KEEP, RE_BASELINE = "keep", "re-baseline"
SAME = (
    "nothing was compared: the version is its own baseline, as it was not fine-tuned; name another "
    "export or a run with --against"
)
EXIT_CODE = {KEEP: 0, RE_BASELINE: 3}
BUCKETS = 10
LEAST = 1e-4  # share of a bucket; one without rows has no logarithm


def psi(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Population stability index `Σ (a_i − b_i) ln(a_i / b_i)` of two sets of scores.

    Buckets are the deciles of `expected`. An empty one counts as a 10,000th of the rows.
    """
    a, b = _shares(expected, found)
    return float(((a - b) * np.log(a / b)).sum())


def kl(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """`Σ a_i ln(a_i / b_i)` over the same buckets, a of `expected`, b of `found`; nats."""
    a, b = _shares(expected, found)
    return float((a * np.log(a / b)).sum())


def _shares(
    expected: NDArray[np.float64], found: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, BUCKETS + 1)[1:-1]))
    shares = []
    for scores in (expected, found):
        bucket = np.searchsorted(edges, scores, side="right")
        counts = np.bincount(bucket, minlength=len(edges) + 1)
        shares.append(np.maximum(counts / len(scores), LEAST))
    return shares[0], shares[1]


def trunk_distance(model: UnifiedModel, baseline: UnifiedModel) -> float:
    """`‖θ − θ₀‖ / ‖θ₀‖` over the trunk's weights and the tables that both have."""
    assert isinstance(model.lookup, PlainLookup) and isinstance(baseline.lookup, PlainLookup)
    theirs: dict[str, Tensor] = dict(baseline.trunk.named_parameters())
    mine: dict[str, Tensor] = dict(model.trunk.named_parameters())
    theirs |= {name: table.weight for name, table in baseline.lookup.tables.items()}
    mine |= {name: table.weight for name, table in model.lookup.tables.items()}
    moved = length = 0.0
    for name, weight in mine.items():
        other = theirs.get(name)
        if other is not None and weight.shape == other.shape:
            moved += float((weight - other).detach().double().square().sum())
            length += float(other.detach().double().square().sum())
    if not length:
        raise UserError("the two versions have no trunk in common; give another --against")
    return float((moved / length) ** 0.5)


class Side:
    """A model, and how it reads rows."""

    def __init__(
        self, name: str, config: Config, model: UnifiedModel, statistics: Statistics
    ) -> None:
        self.name = name
        self.config = config
        self.model = model
        self.statistics = statistics

    @classmethod
    def of_artefact(cls, artefact: Artefact) -> "Side":
        return cls(artefact.version, artefact.config, artefact.model(), artefact.statistics)

    @classmethod
    def of_run(cls, path: Path, like: Artefact) -> "Side":
        """The view of a run that an export with the recipe of `like` would have."""
        run = RunDirectory.open(path)
        tower = find_tower(like.recipe.tower, like.surface, like.path.parents[1])
        view = view_of_run(run, run.config, like.surface, like.recipe, tower)
        return cls(run.path.name, view.config, view.model, view.statistics)

    def scores(self, rows: Split, candidates: int) -> Compared:
        """Of the first rows, in their order."""
        batches = labelled_batches(
            self.config, self.statistics, own_rows(self.config, rows), candidates, shuffle=False
        )
        return Compared(self.config, batches, score_of_view(self.model))


def baseline_of(version: Artefact, against: Path | None) -> Side:
    """What a version is compared with: `against`, an export or a run; or where it comes from.

    One that comes from no other export is compared with itself.
    """
    if against is None:
        lineage = version.manifest.get("lineage", [])
        against = version.path.parent / lineage[0] if lineage else version.path
        if not is_artefact(against):
            raise UserError(
                f"{against}: the export that {version.version} comes from is not there; "
                "name a baseline with --against"
            )
    if not is_artefact(against):
        return Side.of_run(against, version)
    baseline = Artefact(against)
    if baseline.surface != version.surface:
        raise UserError(
            f"--against {against}: is an export of surface {baseline.surface}, not of "
            f"{version.surface}; give one of the same surface"
        )
    return Side.of_artefact(baseline)


def drift(version: Artefact, table: str, against: Path | None = None) -> dict[str, Any]:
    """Compares a version with its baseline on fresh labelled rows.

    Returns `{"surface", "version", "baseline", "note", "candidates", "trunk", "tasks": {T: {"psi",
    "kl", "ne": {"version", "baseline", "difference"}, "pcoc": …}}, "reasons", "verdict"}`. A
    difference of NE is relative, and positive where the version is worse; of PCOC that of the
    distances from 1. The verdict is `re-baseline` if there is a reason: a threshold of
    `export.drift` passed. `note` is null, or says why the verdict says nothing.
    """
    mine, base = Side.of_artefact(version), baseline_of(version, against)
    rows = open_table(table)
    most = version.config.export.candidates
    found, expected = mine.scores(rows, most), base.scores(rows, most)
    tasks = [task for task in mine.config.tasks if task in base.config.tasks]
    n = min(found.candidates, expected.candidates)
    metrics, their_metrics = found.metrics(0), expected.metrics(0)
    result: dict[str, Any] = {
        "surface": version.surface,
        "version": mine.name,
        "baseline": base.name,
        "note": SAME if base.name == mine.name else None,
        "candidates": n,
        "trunk": trunk_distance(mine.model, base.model),
        "tasks": {},
    }
    for task in tasks:
        p, q = found.probabilities[0][task][:n], expected.probabilities[0][task][:n]
        a, b = metrics[task], their_metrics[task]
        ne = None if a["ne"] is None or b["ne"] is None else (a["ne"] - b["ne"]) / b["ne"]
        pcoc = None
        if a["pcoc"] is not None and b["pcoc"] is not None:
            pcoc = abs(a["pcoc"] - 1) - abs(b["pcoc"] - 1)
        result["tasks"][task] = {
            "psi": psi(q, p),
            "kl": kl(q, p),
            "ne": {"version": a["ne"], "baseline": b["ne"], "difference": ne},
            "pcoc": {"version": a["pcoc"], "baseline": b["pcoc"], "difference": pcoc},
        }
    result["reasons"] = reasons(result, version.config.export.drift)
    result["verdict"] = RE_BASELINE if result["reasons"] else KEEP
    return result


def reasons(result: dict[str, Any], limits: DriftConfig) -> list[str]:
    """Each threshold that is passed, in words."""
    found = []
    if result["trunk"] > limits.trunk:
        found.append(f"the trunk moved by {result['trunk']:.3f}, more than {limits.trunk:g}")
    for task, values in result["tasks"].items():
        ne, pcoc = values["ne"]["difference"], values["pcoc"]["difference"]
        if values["psi"] > limits.psi:
            found.append(f"{task}: PSI of the scores {values['psi']:.3f} > {limits.psi:g}")
        if ne is not None and ne > limits.ne:
            found.append(f"{task}: the baseline's NE is better by {ne:.2%} > {limits.ne:.2%}")
        if pcoc is not None and pcoc > limits.pcoc:
            found.append(f"{task}: PCOC is farther from 1 by {pcoc:.3f} > {limits.pcoc:g}")
    return found


def print_drift(result: dict[str, Any], console: Console) -> None:
    """The comparison and the verdict; then the new baseline beside the version, or what to do."""
    print_comparison(result, console)
    if result["note"]:
        console.print(f"Note: {result['note']}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"Verdict: {result['verdict']}", style="bold")
    new = result.get("rebaselined")
    if new is not None:
        console.print(f"New baseline: {new['path']}", highlight=False, soft_wrap=True)
        print_comparison(new["comparison"], console)
    elif result["verdict"] == RE_BASELINE:
        console.print(
            "recsys drift VERSION --rebaseline LATEST_RUN exports it by the same recipe",
            highlight=False,
        )


def print_comparison(result: dict[str, Any], console: Console) -> None:
    """Trunk, scores and metrics of a version and its baseline."""
    table = Table("task", box=None, header_style="bold", padding=(0, 1))
    for heading in ("PSI", "KL", "NE", "NE of baseline", "ΔNE", "PCOC", "PCOC of baseline"):
        table.add_column(heading, justify="right")
    for task, values in result["tasks"].items():
        ne, pcoc = values["ne"], values["pcoc"]
        table.add_row(
            task,
            f"{values['psi']:.4f}",
            f"{values['kl']:.4f}",
            _shown(ne["version"], "{:.4f}"),
            _shown(ne["baseline"], "{:.4f}"),
            _shown(ne["difference"], "{:+.2%}"),
            _shown(pcoc["version"], "{:.3f}"),
            _shown(pcoc["baseline"], "{:.3f}"),
        )
    console.print(
        f"{result['surface']}: {result['version']} against {result['baseline']} on "
        f"{result['candidates']:,} candidates; trunk distance {result['trunk']:.4f}",
        highlight=False,
    )
    console.print(table)
    for reason in result["reasons"]:
        console.print(reason, highlight=False)


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)

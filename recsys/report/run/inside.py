"""Everything that a report says of a run besides its predictions."""

from collections.abc import Callable
from typing import Any

from recsys.errors import UserError
from recsys.evaluation.score import load_model
from recsys.report.run.data import summarise
from recsys.report.run.experts import expert_use
from recsys.report.run.gradients import cell_gradients, cell_weights, conflict
from recsys.report.run.learning import learning_curves
from recsys.report.run.sample import sample
from recsys.run_directory import RunDirectory


def inside(run: RunDirectory, step: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """`{"learning", "data", "experts", "gradients", "weights"}` and a word for what is left out.

    A part is null where its source is not there: no log, no checkpoint, no data.
    """
    config = run.config
    found: dict[str, Any] = dict.fromkeys(("learning", "data", "experts", "gradients", "weights"))
    step("learning curves")
    found["learning"] = learning_curves(run)
    notes = [] if found["learning"] else ["no learning curves: metrics.jsonl is missing or empty"]
    step("data summary")
    found["data"], missing = summarise(config)
    notes += missing
    step("experts and gradients")
    train = found["data"].get("train")
    labels = {
        (surface, task): cell["known"]
        for surface, each in (train["surfaces"].items() if train else ())
        for task, cell in each["tasks"].items()
    }
    try:
        model, rows = load_model(run, config), sample(run, config)
    except UserError as error:
        notes.append(f"no experts and no gradients: {error}")
        return found, notes
    weights = cell_weights(config, labels, model.log_variances)
    found["experts"] = expert_use(model, rows)
    gradients = cell_gradients(model, rows)
    found["gradients"] = conflict(gradients, weights)
    found["gradients"]["sample"] = {name: rows.candidates(name) for name in rows.parts}
    if train:
        found["weights"] = _shares(train, weights, found["gradients"]["norms"])
    return found, notes


def _shares(
    train: dict[str, Any], weights: dict[tuple[str, str], float], norms: list[dict[str, Any]]
) -> dict[str, dict[str, float | None]]:
    """Surface → its share of the train rows, of the loss's weight, and of the trunk's gradient."""
    candidates = train["candidates"] or 1
    total = sum(weights.values()) or 1
    return {
        surface: {
            "rows": each["candidates"] / candidates,
            "loss": sum(w for (s, _), w in weights.items() if s == surface) / total,
            "gradient": sum(n["share"] or 0.0 for n in norms if n["surface"] == surface),
        }
        for surface, each in train["surfaces"].items()
    }

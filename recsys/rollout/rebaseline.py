"""Back to the joint model: its newest run, exported as the drifted version was."""

from pathlib import Path
from typing import Any

from recsys.export.artefact import Artefact
from recsys.export.export import export, load_recipe
from recsys.rollout.drift import drift
from recsys.run_directory import RunDirectory


def rebaseline(version: Artefact, run: Path, table: str) -> dict[str, Any]:
    """Exports `run` by the recipe of `version`, beside it, and compares the two on `table`.

    Returns `{"path", "version", "comparison"}`; the comparison is `drift` of the old version
    against the new one. Nobody is told to serve the new version: that is a decision.
    """
    recipe = load_recipe(version.path)
    exports = version.path.parents[1]
    made = Artefact(export(RunDirectory.open(run), version.surface, exports, recipe).path)
    return {
        "path": str(made.path),
        "version": made.version,
        "comparison": drift(version, table, made.path),
    }

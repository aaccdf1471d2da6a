"""From a run to one surface's artefact."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.config import Config, load_config
from recsys.config.export import Recipe
from recsys.config.load import parse_section
from recsys.data.splits import Split, open_split, open_table, own_rows
from recsys.errors import UserError
from recsys.export.artefact import Artefact, is_artefact
from recsys.export.manifest import sha256_of
from recsys.export.package import Package, Packaged
from recsys.export.show import summary
from recsys.export.tower import find_tower, recorded_name
from recsys.export.view import view_of_run
from recsys.run_directory import RunDirectory
from recsys.training import checkpoint

# What `--set` may change of a run's configuration: the rest is in its weights.
FREE = ("data.", "export.")


def export_surfaces(
    run: Path,
    surfaces: Sequence[str] | None,
    out: Path | None,
    recipe: Path | None,
    embeddings: str | None,
    tasks: str | None,
    *,
    aot: bool = False,
    table: str | None = None,
    overrides: list[str] | None = None,
) -> list[dict[str, Any]]:
    """`recsys export`: the summaries of the exports of some surfaces, or of all."""
    opened = RunDirectory.open(run)
    chosen = tuple(tasks.split(",")) if tasks else None
    wanted = load_recipe(recipe, embeddings, chosen)
    if aot:
        wanted = wanted.model_copy(update={"aot": True})
    return [
        summary(export(opened, surface, out, wanted, table, overrides))
        for surface in surfaces or opened.config.active_surfaces
    ]


def export(
    run: RunDirectory,
    surface: str,
    out: Path | None = None,
    recipe: Recipe | None = None,
    table: str | None = None,
    overrides: list[str] | None = None,
) -> Packaged:
    """Exports one surface of a run's best checkpoint to `out/SURFACE/VERSION`.

    Args:
        run: a run with a complete checkpoint.
        surface: of the run.
        out: folder of exports; `exports` in the run's by default.
        recipe: in what it differs from the joint model's view.
        table: labelled request table that parity is measured on; `export.split` by default.
        overrides: `key=value` of `data` and `export`.

    Raises `UserError` for wrong input, and if parity is past a limit; then nothing is written.
    """
    config = _run_config(run, overrides or [])
    exports, recipe = out or run.path / "exports", recipe or Recipe()
    origin: dict[str, Any] = {"parent": None}
    tower = find_tower(recipe.tower, surface, exports)
    if tower is not None:
        recipe = recipe.model_copy(update={"tower": recorded_name(tower)})
        origin["tower"] = {"version": tower.version, "sha256": tower.manifest["sha256"]}
    view = view_of_run(run, config, surface, recipe, tower)
    split = view.config.export.split
    rows = own_rows(view.config, open_table(table)) if table else open_split(view.config, split)
    origin["source"] = source_document(run, config)
    joint = view.joint if view.joint is not None and view.joint.reads(rows) else None
    return Package(view.model, recipe, view.statistics, rows, origin, joint).write(exports)


def _run_config(run: RunDirectory, overrides: list[str]) -> Config:
    for override in overrides:
        if not override.startswith(FREE):
            raise UserError(
                f"--set {override}: an export may change data.… and export.…; "
                "everything else is in the run's weights"
            )
    return load_config(run.config_file, overrides)


def load_recipe(
    path: Path | None, embeddings: str | None = None, tasks: tuple[str, ...] | None = None
) -> Recipe:
    """A recipe of a YAML file, or that of an export, with what the command line changes.

    Raises `UserError` that names the file and the key.
    """
    document: Any = {}
    if path is not None and is_artefact(path):
        opened = Artefact(path)
        document = opened.recipe.model_dump(mode="json")
        beside = opened.path.parents[1] / str(document["tower"])
        if is_artefact(beside):
            document["tower"] = str(beside)
    elif path is not None:
        try:
            document = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not readable as a recipe: {reason}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: is not a mapping of keys; see docs/howto/export.md")
    changes = {"embeddings": embeddings, "tasks": tasks}
    document |= {key: value for key, value in changes.items() if value is not None}
    return parse_section(document, str(path or "recipe"), Recipe)


def source_document(run: RunDirectory, config: Config) -> dict[str, Any]:
    """Where an export comes from: run, checkpoint and data."""
    found = checkpoint.best(run.checkpoints)
    assert found is not None  # the model was loaded from it
    return {
        "run": run.path.resolve().name,
        "step": checkpoint.read_progress(found).step,
        "checkpoint": found.name,
        "checkpoint_bytes": sum(file.stat().st_size for file in found.iterdir()),
        "config_sha256": sha256_of(config.model_dump(mode="json", by_alias=True)),
        "data": data_document(config),
    }


def data_document(config: Config) -> dict[str, Any]:
    """The range of the train split, or nulls where it is gone."""
    found: dict[str, Any] = {
        "root": config.data.root,
        "train": "+".join(config.data.folders("train")),
    }
    try:
        split = open_split(config, "train")
    except UserError:
        return {**found, "requests": None, "candidates": None, "from": None, "to": None}
    low, high = time_range(split)
    sizes = {"requests": split.requests, "candidates": split.candidates}
    return {**found, **sizes, "from": low, "to": high}


def time_range(split: Split) -> tuple[str | None, str | None]:
    """The first and last `time` of a split as ISO 8601, by the files' statistics; else nulls."""
    lows, highs = [], []
    for number in {group.file for group in split.row_groups}:
        with pq.ParquetFile(split.filesystem.open_input_file(split.files[number])) as parquet:
            names = parquet.schema_arrow.names
            if "time" not in names:
                return None, None
            kind = parquet.schema_arrow.field("time").type
            metadata = parquet.metadata
            paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
            for group in range(metadata.num_row_groups):
                statistics = metadata.row_group(group).column(paths.index("time")).statistics
                if statistics is None or not statistics.has_min_max:
                    return None, None
                lows.append(pa.scalar(statistics.min, kind))
                highs.append(pa.scalar(statistics.max, kind))
    milliseconds = pa.timestamp("ms", "UTC")
    ends = (min(lows, key=_number), max(highs, key=_number))
    low, high = (each.cast(milliseconds).as_py().isoformat() for each in ends)
    return low, high


def _number(scalar: pa.Scalar) -> int:
    return int(scalar.cast(pa.int64()).as_py())

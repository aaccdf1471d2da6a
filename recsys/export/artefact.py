"""An export on disk, opened."""

from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from recsys.config import Config, load_config
from recsys.config.export import Recipe
from recsys.data.layout import Layout
from recsys.data.statistics import Statistics
from recsys.errors import UserError
from recsys.export.manifest import MANIFEST, check_files, read_manifest
from recsys.export.program import load_program
from recsys.export.signature import Signature
from recsys.model.unified import UnifiedModel, build_model

PROGRAM, WEIGHTS, CONFIG = "model.pt2", "weights.safetensors", "config.yaml"
COMPILED = "model.aot.pt2"
STATISTICS, EXAMPLE = "statistics", "example.json"


def is_artefact(path: Path) -> bool:
    """Whether a folder is an export and not, for example, a run."""
    return (path / MANIFEST).is_file()


class Artefact:
    """One surface's export: `exports/SURFACE/VERSION/`.

    Raises `UserError` if the folder is no export, is of a newer format, or if a file is not what
    the manifest says. Nothing of it is opened before its checksum held.
    """

    def __init__(self, path: str | Path) -> None:
        # SURFACE and the folder of exports are its parents: of a relative path, and through a link
        # of another name, too.
        self.path = Path(path).resolve()
        self.manifest: dict[str, Any] = read_manifest(Path(path))
        check_files(self.path, self.manifest)

    @property
    def surface(self) -> str:
        return str(self.manifest["surface"])

    @property
    def version(self) -> str:
        return str(self.manifest["version"])

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.manifest["recipe"])

    @cached_property
    def config(self) -> Config:
        """Of the view: this surface alone."""
        return load_config(self.path / CONFIG)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.config)

    @cached_property
    def signature(self) -> Signature:
        return Signature(self.layout)

    @cached_property
    def statistics(self) -> Statistics:
        """Vocabularies and number statistics of what the surface reads."""
        return Statistics.load(self.path / STATISTICS)

    @cached_property
    def program(self) -> nn.Module:
        """The exported program; takes tensors by name."""
        return load_program(self.path / PROGRAM)

    def model(self) -> UnifiedModel:
        """A new fp32 model with the artefact's weights, for fine-tuning and for measuring."""
        model = build_model(self.config)
        try:
            model.load_state_dict(load_file(self.path / WEIGHTS))
        except (RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self.path / WEIGHTS}: does not fit its {CONFIG}: {reason}") from None
        return model.eval()

"""The committed studies name configurations that load."""

from pathlib import Path

import pytest
import yaml

from recsys.config import load_config

ROOT = Path(__file__).parents[1]
VARIANTS = [
    (study.name, name)
    for study in sorted((ROOT / "studies").glob("*.yaml"))
    for name in yaml.safe_load(study.read_text())["variants"]
]


@pytest.mark.parametrize(("study", "name"), VARIANTS)
def test_every_variant_is_a_configuration(study: str, name: str) -> None:
    document = yaml.safe_load((ROOT / "studies" / study).read_text())
    variant = document["variants"][name]
    overrides = [*document["set"], *variant.get("set", [])]
    config = load_config(ROOT / document["config"], overrides)
    if variant.get("each_surface"):
        for surface in config.surfaces:
            part = load_config(
                ROOT / document["config"], [*overrides, f"data.surfaces=[{surface}]"]
            )
            assert list(part.active_surfaces) == [surface]

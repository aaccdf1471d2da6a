from pathlib import Path

from scripts.config_reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_reference_is_what_the_classes_say():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python scripts/config_reference.py > docs/configuration.md"
    )


def test_every_key_is_explained():
    assert "|  |\n" not in reference()

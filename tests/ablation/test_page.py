"""The page of a study: every figure, and drawings of what parts gain together and apart."""

import re

from recsys.ablation.judge import summarise
from recsys.ablation.page import html
from tests.ablation.test_judge import JUDGED, metrics


def document(judged: dict, seeds: list[int]) -> dict:
    return {"config": "a<b.yaml", "split": "test", "seeds": seeds, **summarise(judged)}


def test_the_composition_is_drawn_for_each_metric_and_task() -> None:
    alone = {f"a model a surface: {name}": seeds for name, seeds in JUDGED.items()}
    found = html(document(JUDGED | alone, [1, 2]))
    drawings = re.findall(r'<svg role="img" aria-label="([^"]+)"', found)
    assert "AUC of click, gain" in drawings
    assert "NE of click, gain" in drawings
    assert "click, less “MMoE + history”" in drawings
    assert "merged − alone" in found
    for label in ("MMoE alone", "the sum of both", "both together", "more than the sum"):
        assert found.count(label) >= 3  # two drawings and a table
    assert "+0.0300<small>0.0300 … 0.0300</small>" in found
    assert "a&lt;b.yaml" in found
    assert "a<b.yaml" not in found


def test_without_the_four_parts_there_is_no_composition() -> None:
    found = html(document({"joint": [metrics(0.8)], "towers off": [metrics(0.7, None)]}, [1]))
    assert "Together and apart" not in found
    assert "click, less “joint”" in found
    assert "-0.1000" not in found
    assert "−0.1000" in found


def test_one_variant_alone_has_a_table() -> None:
    found = html(document({"joint": [metrics(0.8)]}, [1]))
    assert "<svg" not in found
    assert "0.8000" in found

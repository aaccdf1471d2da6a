"""A package imports from those before it in the way of the data, never from one after it."""

import re
from pathlib import Path

import recsys

ORDER = (
    "config", "data", "model", "sharding", "training", "evaluation", "report", "ablation", "export",
    "rollout",
)  # fmt: skip
IMPORT = re.compile(r"^\s*(?:from|import) recsys\.(\w+)", re.MULTILINE)


def test_no_package_imports_a_later_one():
    root = Path(recsys.__file__).parent
    for at, package in enumerate(ORDER):
        for file in (root / package).rglob("*.py"):
            later = {*ORDER[at + 1 :]}.intersection(IMPORT.findall(file.read_text("utf-8")))
            assert not later, f"{file.relative_to(root)} imports {later}"

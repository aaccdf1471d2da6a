"""Modules whose names PyTorch would refuse."""

import pytest
from torch import nn

from recsys.config import parse_config
from recsys.model.named import NamedModules, module_name
from recsys.model.unified import build_model
from tests.config.documents import document


def test_names_of_all_kinds() -> None:
    names = ["home", "2 go", "acme.com", "acme_com", "items", "in", "to", "_"]
    modules = NamedModules({name: nn.Linear(1, 1) for name in names})
    assert len({modules[name] for name in names}) == len(names)
    assert all(name in modules for name in names)
    assert "is" not in modules
    assert list(modules) == [
        *("home", "2 go", "acme%2Ecom%", "acme_com", "items%", "in%", "to%", "_"),
    ]
    assert [module_name(name) for name in modules] == list(modules)  # once is enough


@pytest.mark.parametrize("task", ["items", "return"])
def test_a_task_may_be_called_so(task: str) -> None:
    tower = {"stem": [8], "branches": {task: [4]}}
    main = ("surfaces.main", {"tasks": ["click", task], "tower": tower})
    state = build_model(parse_config(document(main), "c.yaml")).state_dict()
    heads = {
        name.removesuffix(".weight") for name in state if ".heads." in name and "bias" not in name
    }
    assert heads == {
        *("towers.main.tower.heads.click", f"towers.main.tower.heads.{task}%"),
        "towers.search.tower.heads.click",
    }

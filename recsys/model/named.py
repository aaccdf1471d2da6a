"""Modules by names that the data has: of surfaces and tasks."""

from collections.abc import Mapping
from keyword import iskeyword

from torch import nn

_TAKEN = nn.ModuleDict()


def module_name(name: str) -> str:
    """The module's name, and so the one in state dicts: the same, unless PyTorch refuses that.

    A module refuses dots and what it has itself, such as `items` or `to`; the code that
    torch.export writes refuses keywords, such as `in`. Such a name gets `%` at its end.
    """
    if "." in name or iskeyword(name) or hasattr(_TAKEN, name):
        return name.replace(".", "%2E") + "%"
    return name


class NamedModules(nn.ModuleDict):
    """A `ModuleDict` whose keys may be any names; to iterate gives `module_name` of them."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({module_name(name): module for name, module in modules.items()})

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(module_name(name))

    def __contains__(self, name: str) -> bool:
        return super().__contains__(module_name(name))

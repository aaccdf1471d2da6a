"""Late-fusion modules of a surface's tower: the built-in ones and how a user's own is found.

A module is an `nn.Module` with this interface:

    class QueryCross(nn.Module):
        def __init__(self, inputs: Mapping[str, int], **arguments): ...
            # inputs: name → width, as named in the config; arguments: the other keys there.
            self.out_features = …
        def forward(self, inputs: Mapping[str, Tensor | History]) -> Tensor: ...
            # each input [n, width] on the n candidates of the surface; → [n, out_features]

`trunk` is the trunk's output, `history` a `History`; every other name is a declared feature,
already broadcast from requests to candidates.
"""

import importlib
from collections.abc import Mapping

from torch import nn

from recsys.config import ModuleConfig
from recsys.errors import UserError
from recsys.model.modules.cross import LowRankCross
from recsys.model.modules.history_attention import HistoryAttention
from recsys.model.modules.mlp import MLP

BUILT_IN: Mapping[str, type[nn.Module]] = {
    "mlp": MLP,
    "low_rank_cross": LowRankCross,
    "history_attention": HistoryAttention,
}


def build_module(config: ModuleConfig, inputs: Mapping[str, int], where: str) -> nn.Module:
    """The module that `config` names, built for inputs of these widths.

    Raises `UserError` naming the key if the class cannot be found or built.
    """
    kind = BUILT_IN.get(config.class_) or _from_path(config.class_, where)
    try:
        module = kind(inputs, **config.arguments)
    except TypeError as error:
        raise UserError(f"{where}: {config.class_} does not take these keys: {error}") from error
    if not isinstance(module, nn.Module) or not isinstance(
        getattr(module, "out_features", None), int
    ):
        raise UserError(
            f"{where}: {config.class_} is not an nn.Module with an int attribute out_features"
        )
    return module


def _from_path(path: str, where: str) -> type[nn.Module]:
    package, _, name = path.rpartition(".")
    if not package:
        raise UserError(
            f"{where}: class {path} is not built in ({', '.join(BUILT_IN)}); for your own module "
            "give its dotted path, package.module.Class"
        )
    try:
        return getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: class {path} cannot be imported: {error}") from error

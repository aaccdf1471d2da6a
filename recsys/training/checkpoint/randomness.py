"""The random generators of a rank, for dropout."""

import torch
from torch import Tensor

from recsys.training.ranks import Ranks


def random_state(ranks: Ranks) -> dict[str, Tensor]:
    """The state of this rank's generators, under names that no other rank and no other number of
    ranks has."""
    found = {f"rng.{ranks.world}.{ranks.rank}.cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        found[f"rng.{ranks.world}.{ranks.rank}.cuda"] = torch.cuda.get_rng_state(ranks.device)
    return found


def set_random_state(state: dict[str, Tensor], ranks: Ranks) -> None:
    """Puts back what `random_state` returned."""
    for name, value in state.items():
        if name.endswith("cuda"):
            torch.cuda.set_rng_state(value, ranks.device)
        else:
            torch.set_rng_state(value)

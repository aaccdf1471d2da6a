"""The model as it is built for training."""

from dataclasses import replace

import torch

from recsys.sharding.ranks import agree_on_plan
from recsys.training.ranks import start_ranks
from recsys.training.sharded import build_sharded_model
from tests.training.steps import training_config


def test_one_rank_has_all_of_the_model_on_its_device() -> None:
    """Not the tables alone. The meta device stands for a GPU: neither is where modules are made."""
    config = training_config(0)
    with start_ranks(60) as ranks:
        plan = agree_on_plan(config, 1, ranks.device).model_copy(update={"device": "meta"})
        elsewhere = replace(ranks, device=torch.device("meta"))
        model, _ = build_sharded_model(config, elsewhere, plan)
        tensors = {**dict(model.named_parameters()), **dict(model.module.named_buffers())}
    assert {"log_rates", "trunk.request_numbers.mean", "calibrators.home.bias"} <= tensors.keys()
    assert {name for name, each in tensors.items() if each.device.type != "meta"} == set()

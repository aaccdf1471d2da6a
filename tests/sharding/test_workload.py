"""Lengths measured from the data, against those of the batches that are read."""

from pathlib import Path

import numpy as np
import pytest

from recsys.config import Config, load_config
from recsys.data.batch import Batch
from recsys.data.fit import fit
from recsys.data.layout import Layout
from recsys.data.reader import Reader
from recsys.errors import UserError
from recsys.sharding.workload import assume, workload
from tests.model.requests import random_config


@pytest.fixture(scope="module")
def config(simulated_log: Path) -> Config:
    return load_config(simulated_log / "config.yaml", ["training.batch_candidates=64"])


def batches(config: Config) -> list[Batch]:
    with Reader(config, "train", fit(config), batch_candidates=64) as reader:
        return list(reader)


def test_measured_lookups_are_those_of_the_batches(config: Config) -> None:
    found, layout = workload(config), Layout(config)
    assert found.measured
    assert "measured on" in found.source
    read = batches(config)[:-1]  # the last is not full
    assert found.requests == pytest.approx(np.mean([b.requests for b in read]), rel=0.1)
    for collection in layout.collections:
        keyed = [batch.sparse[collection] for batch in read]
        for column in layout.ids_of(collection):
            ids = np.mean([len(each[column.key].values()) for each in keyed])
            runs, length = found.runs(column, collection)
            # Surfaces' own lists are empty elsewhere, single ids are absent rows there.
            assert runs * length == pytest.approx(ids, rel=0.15), column.key


def test_without_data_the_assumptions_hold_and_say_so() -> None:
    config = random_config(0, sharding={"assumed": {"candidates": 5, "ids": {"tags": 3}}})
    found = workload(config)
    assert not found.measured
    assert found.source.startswith("sharding.assumed, not measured (data.train: nowhere/train")
    assert found.candidates == 5
    assert found.history == Layout(config).history_length
    assert found.requests == round(config.training.batch_candidates / 5)
    assert found.ids["candidate.tags"] == 3
    assert found.ids["candidate.more_tags"] == 1


def test_an_assumed_history_is_no_longer_than_what_is_read() -> None:
    config = random_config(0, sharding={"assumed": {"history": 1000}})
    assert assume(config).history == config.features.history.length  # type: ignore[union-attr]


def test_data_that_does_not_fit_is_an_error(config: Config) -> None:
    document = config.model_dump(mode="json", by_alias=True)
    document["features"]["candidate"]["absent"] = {"id": "tag", "pooling": "sum"}
    with pytest.raises(UserError, match="absent"):
        workload(Config.model_validate(document))

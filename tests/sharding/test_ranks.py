"""The plan that ranks train under: made, given, or kept; always the same on all of them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.config import Config
from recsys.errors import UserError
from recsys.sharding.document import PlanDocument
from recsys.sharding.plan import plan_tables
from recsys.sharding.ranks import _same_as_before, agree_on_plan
from recsys.sharding.topology import parse_topology
from recsys.sharding.workload import assume
from recsys.training.ranks import start_ranks
from recsys.training.train import Trainer, train
from tests.model.requests import random_config
from tests.training.conftest import logs, small  # noqa: F401 - fixtures
from tests.two_ranks import TwoRanks

CPU = torch.device("cpu")


def agreed(config: Config, given: Path | None = None, before: Path | None = None) -> Any:
    """The plan on this rank, or the error."""
    with start_ranks(60) as ranks:
        try:
            plan = agree_on_plan(config, ranks.world, ranks.device, given=given, before=before)
        except UserError as error:
            return str(error)
        return plan.dump()


def unusual_plan(config: Config, path: Path) -> dict[str, Any]:
    """A plan for two ranks that the planner would not make: every second table on rank 1, one cut
    into columns. Written to `path`."""
    planned = plan_tables(config, parse_topology("1x2xcpu"), assume(config))
    document = planned.document.dump()
    for number, (name, table) in enumerate(document["tables"].items()):
        rows, dim = config.tables[name].rows + 1, config.tables[name].dim
        rank = number % 2
        table |= {"sharding_type": "table_wise", "ranks": [rank]}
        table["shards"] = [{"rank": rank, "offsets": [0, 0], "sizes": [rows, dim]}]
        if number == 1:
            half = dim // 2
            table |= {"sharding_type": "column_wise", "ranks": [1, 0]}
            table["shards"] = [
                {"rank": 1, "offsets": [0, 0], "sizes": [rows, half]},
                {"rank": 0, "offsets": [0, half], "sizes": [rows, half]},
            ]
    assert document != planned.document.dump()
    path.write_text(json.dumps(document))
    return PlanDocument.model_validate(document).dump()


def test_two_ranks_make_one_plan_that_uses_both(two_ranks: TwoRanks) -> None:
    first, second = two_ranks.run(agreed, random_config(0))
    assert first == second
    assert set(first["tables"]) == set(random_config(0).tables)
    assert (first["world"], first["device"]) == (2, "cpu")
    assert {rank for table in first["tables"].values() for rank in table["ranks"]} == {0, 1}


def test_a_fault_of_the_first_rank_is_told_by_all(
    two_ranks: TwoRanks,
    tmp_path: Path,
) -> None:
    config = random_config(0, tables={**random_config(0).model_dump()["tables"]})
    missing = tmp_path / "plan.json"
    first, second = two_ranks.run(agreed, config, missing)
    assert first == second
    assert first.startswith(f"{missing}: cannot be read")
    huge = {name: {"rows": 10**12, "dim": 128} for name in config.tables}
    first, second = two_ranks.run(agreed, random_config(0, tables=huge))
    assert first == second
    assert first.startswith("sharding: no plan fits 1x2xcpu (2 ranks): ")


def test_a_plan_for_other_hosts_is_neither_taken_nor_kept(tmp_path: Path) -> None:
    """A rank's GPU is its number on its host: shards of the second host's would lie elsewhere."""
    config, file = random_config(0), tmp_path / "plan.json"
    plan = plan_tables(config, parse_topology("1x1xH100"), assume(config)).document
    file.write_text(json.dumps(plan.dump()))
    gpu = torch.device("cuda")
    assert agree_on_plan(config, 1, gpu, given=file) == plan
    assert agree_on_plan(config, 1, gpu, before=file) == plan
    file.write_text(json.dumps({**plan.dump(), "ranks_per_node": 2}))
    with pytest.raises(UserError, match=r"plan.json: ranks_per_node: 2, but the job has 1 on"):
        agree_on_plan(config, 1, gpu, given=file)
    assert _same_as_before(config, 1, "cuda", file) is None


def placed(config: Config, run: Path, plan: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains under a plan; the shards this rank really held (table → offsets and sizes)."""
    held: dict[str, Any] = {}
    fit = Trainer.fit

    def look(trainer: Trainer, *arguments: Any) -> Any:
        for name, value in trainer.model.state_dict().items():
            if "lookup.collections" in name and hasattr(value, "local_shards"):
                table = name.split(".")[-2]
                held[table] = [
                    (list(s.metadata.shard_offsets), list(s.metadata.shard_sizes), s.tensor.dtype)
                    for s in value.local_shards()
                ]
        return fit(trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", look)
        summary = train(config, run, plan=plan)
    return summary, held


def test_training_on_two_ranks_uses_a_given_plan_exactly(
    two_ranks: TwoRanks,
    small: Config,  # noqa: F811
    tmp_path: Path,
) -> None:
    document = unusual_plan(small, tmp_path / "plan.json")
    results = two_ranks.run(placed, small, tmp_path / "run", tmp_path / "plan.json")
    for rank, (summary, held) in enumerate(results):
        assert summary["steps"] > 0
        for name, table in document["tables"].items():
            expected = [
                (shard["offsets"], shard["sizes"], torch.float32)
                for shard in table["shards"]
                if shard["rank"] == rank
            ]
            assert held.get(name, []) == expected, name
    # In the run's folder and in every checkpoint.
    assert json.loads((tmp_path / "run" / "plan.json").read_text()) == document
    states = list((tmp_path / "run" / "checkpoints").glob("step-*/state.json"))
    assert states
    for state in states:
        assert json.loads(state.read_text())["plan"] == document


def test_a_resumed_run_keeps_its_plan(
    two_ranks: TwoRanks,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, path = random_config(0), tmp_path / "plan.json"
    document = unusual_plan(config, path)
    assert two_ranks.run(agreed, config, None, path) == [document, document]
    # Under other constraints, or on another number of ranks, it is made anew.
    other = random_config(0, sharding={"constraints": {"tag": {"types": ["table_wise"]}}})
    assert two_ranks.run(agreed, other, None, path)[0] != document
    with caplog.at_level(logging.INFO):
        alone = agreed(config, None, path)
    assert alone["world"] == 1
    assert "plan: made for 1 ranks on cpu: 7 tables: " in caplog.text
    assert "lengths: sharding.assumed" in caplog.text
    assert "rank 0:  7 shards" in caplog.text


def test_a_plan_for_more_ranks_than_there_are(tmp_path: Path) -> None:
    config, path = random_config(0), tmp_path / "plan.json"
    unusual_plan(config, path)
    message = agreed(config, path)
    assert message.startswith(f"{path}: tables.")
    assert "has a shard on rank 1, but there are 1 ranks; make a plan for them" in message


def half_tables(config: Config) -> Config:
    tables = {n: t.model_copy(update={"dtype": "fp16"}) for n, t in config.tables.items()}
    return config.model_copy(update={"tables": tables})


def test_fp16_tables_train_and_are_evaluated(
    two_ranks: TwoRanks,
    small: Config,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The same run with tables in half precision: weights are fp16, losses nearly the same."""
    from recsys.evaluation.score import evaluate
    from recsys.run_directory import RunDirectory

    path = tmp_path / "plan.json"
    unusual_plan(small, path)
    two_ranks.run(placed, small, tmp_path / "full", path)
    results = two_ranks.run(placed, half_tables(small), tmp_path / "half", path)
    shards = [shard for _, held in results for table in held.values() for shard in table]
    assert shards
    assert {dtype for *_, dtype in shards} == {torch.float16}
    found = {}
    for name in ("full", "half"):
        tasks = evaluate(RunDirectory.open(tmp_path / name), "valid", None)["all"]["tasks"]
        found[name] = {task: metrics["logloss"] for task, metrics in tasks.items()}
    for task, loss in found["full"].items():
        assert found["half"][task] == pytest.approx(loss, rel=0.03)
    assert found["half"] != found["full"]

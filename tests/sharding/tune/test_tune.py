"""Tuning on two real ranks, and what it refuses."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recsys.config import Config, dump_config, load_config
from recsys.errors import RunError, UserError
from recsys.sharding.answer import tuned
from recsys.sharding.document import PlanDocument, check_plan, read_plan
from recsys.sharding.plan import plan_tables
from recsys.sharding.topology import parse_topology
from recsys.sharding.tune.candidates import Candidate
from recsys.sharding.tune.compare import Correlation, SpeedUp
from recsys.sharding.tune.measure import Effort, check_at_hand, measure
from recsys.sharding.tune.tune import Tuning
from recsys.sharding.workload import assume
from tests.model.requests import random_config
from tests.training.conftest import SMALL

CLUSTER = parse_topology("1x2xcpu")


@pytest.fixture(scope="module")
def config(simulated_log: Path) -> Config:
    return load_config(simulated_log / "config.yaml", [*SMALL, "training.batch_candidates=32"])


def two_plans(config: Config) -> list[PlanDocument]:
    fixed = {"constraints": {"item": {"types": ["column_wise"], "min_partition": 4}}}
    other = Config.model_validate({**config.model_dump(by_alias=True), "sharding": fixed})
    return [plan_tables(c, CLUSTER, assume(c)).document for c in (config, other)]


def test_two_ranks_measure_every_plan_in_every_round(config: Config) -> None:
    seconds = measure(config, two_plans(config), 2, Effort(rounds=2, steps=2, warmup=1))
    assert [len(rounds) for rounds in seconds] == [2, 2]
    assert all(0 < each < 60 for rounds in seconds for each in rounds)


def test_ranks_that_fail_say_why(config: Config) -> None:
    with pytest.raises(RunError, match=r"--tune: the measured ranks failed: .*has no batch for ev"):
        one = config.model_copy(
            update={"training": config.training.model_copy(update={"batch_candidates": 10**6})}
        )
        data = {**config.data.model_dump(), "surfaces": ["home"]}
        document = {**one.model_dump(by_alias=True), "data": data}
        measure(_one_request(document, config), two_plans(config), 2, Effort(1, 1))


def _one_request(document: dict[str, Any], config: Config) -> Config:
    """A split of a single request, of which the second rank gets none."""
    import pyarrow.parquet as pq

    root = Path(config.data.root)
    new = root.parent / "one_request"
    if not new.exists():
        (new / "train").mkdir(parents=True)
        first = next((root / "train").glob("*.parquet"))
        pq.write_table(pq.read_table(first).slice(0, 1), new / "train" / "part-0.parquet")
    document["data"] = {**config.data.model_dump(), "root": str(new)}
    return Config.model_validate(document)


ENDLESS = (
    "import sys\n"
    "from recsys.config import load_config\n"
    "from recsys.sharding.tune.measure import Effort, measure\n"
    "from tests.sharding.tune.test_tune import two_plans\n"
    "config = load_config(sys.argv[1])\n"
    "measure(config, two_plans(config), 2, Effort(rounds=1_000_000, steps=1))\n"
)


@pytest.mark.slow
def test_a_terminated_tuning_leaves_no_rank_behind(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))

    def ranks() -> list[str]:
        found = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
        return [line for line in found.stdout.splitlines() if f"{tmp_path}/recsys-" in line]

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 180
        while len(ranks()) != count and time.monotonic() < deadline:
            time.sleep(0.5)
        assert len(ranks()) == count

    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", ENDLESS, str(path)]
    tuning = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(3)  # torchrun and its two ranks
        tuning.terminate()
        assert tuning.wait(120) != 0
        wait_for(0)
    finally:
        tuning.terminate()
        tuning.wait(60)
    assert not list(tmp_path.glob("recsys-tune-*"))


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("2x1xcpu", "--tune measures on this machine, but 2x1xcpu has 2 hosts; give a topology of"),
        ("1x64xH100", "1x64xH100 needs 64 GPUs, it has "),
    ],
)
def test_ranks_that_are_not_at_hand(topology: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_at_hand(parse_topology(topology))
    assert message in str(caught.value)


def test_what_cannot_be_tuned() -> None:
    config = random_config(0)
    with pytest.raises(UserError, match=r"--tune trains on the train split: sharding.assumed, not"):
        tuned(config, "1x2xcpu", plans=2, rounds=1, steps=1)
    with pytest.raises(UserError, match="--plans 1: at least 2"):
        tuned(config, "1x2xcpu", plans=1, rounds=1, steps=1)
    with pytest.raises(UserError, match="--rounds 0: at least 1"):
        tuned(config, "1x2xcpu", plans=2, rounds=0, steps=1)


def tuning_of(ratio: SpeedUp) -> Tuning:
    """A tuning whose winner cuts one table into columns; the times are made up."""
    config = random_config(0)
    lengths = assume(config)
    fixed = {"constraints": {"item": {"types": ["column_wise"], "min_partition": 4}}}
    planned = [plan_tables(c, CLUSTER, lengths) for c in (config, random_config(0, sharding=fixed))]
    return Tuning(
        config=config,
        cluster=CLUSTER,
        found=2,
        chosen=[Candidate(each, 1.0, "") for each in planned],
        effort=Effort(2, 1),
        seconds=[[1.0, 1.1], [0.9, 1.0]],
        winner=1,
        again=[[1.0, 1.1], [0.9, 1.0]],
        confirmed=ratio,
        correlation=Correlation(None, None),
    )


def test_constraints_of_a_faster_plan_name_what_differs() -> None:
    found = tuning_of(SpeedUp(1.2, 1.1, 1.3)).document()
    assert found["confirmation"]["verdict"] == "faster"
    item = {"types": ["column_wise"], "kernels": ["fused"], "min_partition": 4}
    assert found["constraints"]["item"] == item
    assert len(found["constraints"]) < len(random_config(0).tables)
    assert found["plan"]["tables"]["item"]["sharding_type"] == "column_wise"


def test_without_a_difference_the_default_stays() -> None:
    tuning = tuning_of(SpeedUp(1.02, 0.98, 1.06))
    found = tuning.document()
    assert found["confirmation"]["verdict"] == "no difference"
    assert found["constraints"] is None
    assert found["plan"] == tuning.chosen[0].plan.dump()


@pytest.mark.slow
def test_three_plans_are_tuned_on_two_ranks(config: Config, tmp_path: Path) -> None:
    """The command as a user types it: estimate beside measurement, a verdict, a plan to train."""
    path, out = tmp_path / "config.yaml", tmp_path / "plan.json"
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "recsys.cli", "plan", path, "--topology", "1x2xcpu", "--tune"]
    command += ["--plans", "3", "--rounds", "2", "--steps", "3", "--out", out, "--json"]
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [len(plan["rounds_ms"]) for plan in found["plans"]] == [2, 2, 2]
    assert all(plan["measured_ms"] > 0 and plan["estimate_ms"] > 0 for plan in found["plans"])
    assert found["plans"][0]["origin"] == "default"
    assert found["plans"][0]["speed_up"] == 1
    assert len(found["confirmation"]["winner_ms"]) == 6
    low, high = found["confirmation"]["interval"]
    assert low <= found["confirmation"]["speed_up"] <= high
    faster = found["confirmation"]["verdict"] == "faster"
    assert (found["constraints"] is not None) == faster
    expected = found["plans"][found["winner"] if faster else 0]["plan"]
    assert json.loads(out.read_text()) == expected
    check_plan(read_plan(out), config, 2, 2, "cpu", str(out))

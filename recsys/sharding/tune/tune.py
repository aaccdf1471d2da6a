"""Tuning: search by estimate, measure the best few, then measure the winner again."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from recsys.config import Config
from recsys.config.sharding import ConstraintConfig
from recsys.errors import UserError
from recsys.sharding.change import all_constraints
from recsys.sharding.document import PlanDocument, TableDocument
from recsys.sharding.plan import plan_tables
from recsys.sharding.topology import Cluster
from recsys.sharding.tune.candidates import Candidate, choose, search
from recsys.sharding.tune.compare import Correlation, SpeedUp, rank_correlation, speed_up
from recsys.sharding.tune.measure import Effort, check_at_hand, measure
from recsys.sharding.workload import workload

Begun = Callable[[str], None]
# Rounds of the second measurement, of two plans alone, for each round of the first.
CONFIRMING = 3


@dataclass(frozen=True)
class Tuning:
    """What was searched, measured and found.

    `seconds[i][r]` is the step of `chosen[i]` in round r; `chosen[0]` is the default plan. The
    winner is the fastest other in the median. `confirmed` compares it with the default by new
    measurements: those that chose it flatter it.
    """

    config: Config
    cluster: Cluster
    found: int
    chosen: list[Candidate]
    effort: Effort
    seconds: list[list[float]]
    winner: int
    again: list[list[float]]  # default, winner
    confirmed: SpeedUp
    correlation: Correlation

    def document(self) -> dict[str, Any]:
        """As JSON. `constraints` and `plan` are those to train with: the winner's if it is faster,
        else none and the default plan."""
        faster = self.confirmed.verdict == "faster"
        winner = self.chosen[self.winner]
        constraints = self.to_paste() if faster else None
        return {
            "config": self.config.name,
            "topology": self.cluster.label,
            "workload": winner.planned.workload.document(),
            "plans_found": self.found,
            "rounds": self.effort.rounds,
            "steps": self.effort.steps,
            "plans": [self._line(number) for number in range(len(self.chosen))],
            "rank_correlation": {
                "spearman": self.correlation.value,
                "p_value": self.correlation.p_value,
            },
            "winner": self.winner,
            "confirmation": {
                "rounds": len(self.again[0]),
                "default_ms": [1000 * s for s in self.again[0]],
                "winner_ms": [1000 * s for s in self.again[1]],
                "speed_up": self.confirmed.ratio,
                "interval": [self.confirmed.low, self.confirmed.high],
                "verdict": self.confirmed.verdict,
            },
            "constraints": constraints,
            "constraints_make_this_plan": self._made(constraints).tables == winner.plan.tables
            if constraints
            else None,
            "plan": (winner if faster else self.chosen[0]).plan.dump(),
        }

    def _line(self, number: int) -> dict[str, Any]:
        candidate, seconds = self.chosen[number], self.seconds[number]
        against = speed_up(self.seconds[0], seconds)
        return {
            "origin": candidate.origin,
            "kinds": candidate.plan.kinds(),
            "estimate_ms": candidate.step_ms,
            "measured_ms": 1000 * median(seconds),
            "rounds_ms": [1000 * each for each in seconds],
            "speed_up": against.ratio,
            "interval": [against.low, against.high],
            "constraints": all_constraints(candidate.planned),
            "plan": candidate.plan.dump(),
        }

    def to_paste(self) -> dict[str, Any]:
        """Constraints under which the planner divides the tables as in the winner: of the tables
        that it divides otherwise than the default, if these do, else of all."""
        default, winner = self.chosen[0].plan.tables, self.chosen[self.winner].plan.tables
        every = all_constraints(self.chosen[self.winner].planned)
        own = {
            name: constraint.model_dump(mode="json", exclude_none=True)
            for name, constraint in self.config.sharding.constraints.items()
        }
        some = {n: every[n] for n in every if _parts(winner[n]) != _parts(default[n])}
        made = self._made({**own, **some}).tables
        same = all(_parts(made[name]) == _parts(winner[name]) for name in winner)
        return {**own, **some} if same and some else every

    def _made(self, constraints: dict[str, Any]) -> PlanDocument:
        """What the planner makes of constraints."""
        found = {name: ConstraintConfig(**fields) for name, fields in constraints.items()}
        sharding = self.config.sharding.model_copy(update={"constraints": found})
        config = self.config.model_copy(update={"sharding": sharding})
        return plan_tables(config, self.cluster, self.chosen[0].planned.workload).document


def _parts(table: TableDocument) -> Any:
    """How a table is divided, whichever ranks hold the parts."""
    return table.sharding_type, table.compute_kernel, [shard.sizes for shard in table.shards]


def tune(
    config: Config,
    cluster: Cluster,
    *,
    plans: int = 8,
    effort: Effort,
    begun: Begun = lambda name: None,
) -> Tuning:
    """Measures `plans` plans, the default among them, and the best of them once more.

    Raises `UserError` if this machine does not have the ranks, or there is no data to train on.
    """
    check_at_hand(cluster)
    if plans < 2:
        raise UserError(f"--plans {plans}: at least 2, the default plan and another")
    begun("lengths")
    lengths = workload(config)
    if not lengths.measured:
        raise UserError(f"--tune trains on the train split: {lengths.source}")
    candidates = search(config, cluster, lengths, begun)
    chosen = choose(candidates, plans)
    if len(chosen) < 2:
        raise UserError(
            "--tune: the constraints leave one plan; allow more types in sharding.constraints"
        )
    documents = [candidate.plan for candidate in chosen]
    begun(f"measuring {len(chosen)} plans in {effort.rounds} rounds")
    seconds = measure(config, documents, cluster.world, effort)
    winner = min(range(1, len(chosen)), key=lambda number: median(seconds[number]))
    longer = Effort(CONFIRMING * effort.rounds, effort.steps, effort.warmup)
    begun(f"measuring the default and the winner again in {longer.rounds} rounds")
    again = measure(config, [documents[0], documents[winner]], cluster.world, longer)
    return Tuning(
        config=config,
        cluster=cluster,
        found=len(candidates),
        chosen=chosen,
        effort=effort,
        seconds=seconds,
        winner=winner,
        again=again,
        confirmed=speed_up(again[0], again[1]),
        correlation=rank_correlation(
            [candidate.step_ms for candidate in chosen], [median(each) for each in seconds]
        ),
    )

"""Constraints for the sharding planner, and what it may assume where there is no data."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys.config.section import Section

# data_parallel is left out on purpose: such a table loses its fused optimizer.
ShardingType = Literal[
    "table_wise", "column_wise", "row_wise", "table_row_wise", "table_column_wise", "grid_shard"
]
Kernel = Literal["fused", "fused_uvm", "fused_uvm_caching"]

COLUMN_TYPES = frozenset({"column_wise", "table_column_wise", "grid_shard"})


def is_pattern(name: str) -> bool:
    """Whether a key of `sharding.constraints` stands for several tables."""
    return any(sign in name for sign in "*?[")


class ConstraintConfig(Section):
    """`sharding.constraints.TABLE:` – what the planner may choose from for one table, or for all
    whose name matches a pattern such as `video*`."""

    types: tuple[ShardingType, ...] | None = Field(
        None, min_length=1, description="Sharding types allowed. Default: what the device can do"
    )
    kernels: tuple[Kernel, ...] | None = Field(
        None, min_length=1, description="Compute kernels allowed. Default: `fused`"
    )
    min_partition: int | None = Field(
        None,
        ge=4,
        multiple_of=4,
        description="Narrowest column shard, in elements; for column-wise types. "
        "Default: TorchRec's, 128",
    )
    cache_load_factor: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the rows that the GPU caches; for `fused_uvm_caching`. "
        "Default: TorchRec's, 0.2",
    )

    @model_validator(mode="after")
    def _together(self) -> "ConstraintConfig":
        if self.min_partition and self.types and not COLUMN_TYPES & set(self.types):
            raise ValueError(
                f"min_partition is for {', '.join(sorted(COLUMN_TYPES))}; "
                "add one of them to types, or remove it"
            )
        if self.cache_load_factor and "fused_uvm_caching" not in (self.kernels or ()):
            raise ValueError(
                "cache_load_factor is for fused_uvm_caching; add it to kernels, or remove this"
            )
        return self


class AssumedConfig(Section):
    """`sharding.assumed:` – means a request, where the train split cannot be read."""

    candidates: float = Field(10.0, gt=0, description="Candidates of a request")
    history: float | None = Field(
        None, ge=0, description="Events of a history. Default: `features.history.length`"
    )
    ids: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Feature with `pooling` → ids in its list. Default: 1"
    )


class ShardingConfig(Section):
    """`sharding:` – how the tables may be divided over ranks."""

    constraints: dict[str, ConstraintConfig] = Field(
        default_factory=dict,
        description="Table or pattern → what the planner may choose from. A table's own name wins "
        "over patterns, an earlier pattern over a later one",
    )
    reserve: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="Share of each memory that tables may not take: activations, batches, NCCL, "
        "the rest of the program. Dense parameters with all they need are counted besides",
    )
    assumed: AssumedConfig = Field(
        AssumedConfig(), description="Lengths to plan with where there is no data to measure them"
    )

    def constraint_of(self, table: str) -> ConstraintConfig:
        """What holds for `table`; an empty constraint if nothing is said of it."""
        if table in self.constraints:
            return self.constraints[table]
        for pattern, constraint in self.constraints.items():
            if fnmatchcase(table, pattern):
                return constraint
        return ConstraintConfig()

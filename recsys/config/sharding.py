"""Constraints for the sharding planner."""

from typing import Literal

from pydantic import Field

from recsys.config.section import Section

# data_parallel is left out on purpose: such a table loses its fused optimizer.
ShardingType = Literal[
    "table_wise", "column_wise", "row_wise", "table_row_wise", "table_column_wise", "grid_shard"
]
Kernel = Literal["fused", "fused_uvm", "fused_uvm_caching"]


class ConstraintConfig(Section):
    """`sharding.constraints.TABLE:` – what the planner may choose from for one table."""

    types: tuple[ShardingType, ...] | None = Field(
        None, min_length=1, description="Sharding types allowed. Default: what the device can do"
    )
    kernels: tuple[Kernel, ...] | None = Field(
        None, min_length=1, description="Compute kernels allowed. Default: `fused`"
    )


class ShardingConfig(Section):
    """`sharding:` – how the tables may be divided over ranks."""

    constraints: dict[str, ConstraintConfig] = Field(
        default_factory=dict, description="Table → what the planner may choose from"
    )

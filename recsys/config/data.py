"""Where the request tables are and how they are read."""

from pydantic import Field

from recsys.config.group import GroupConfig
from recsys.config.section import Section


class DataConfig(Section):
    """`data:` – folders of Parquet files in the request-table format, and how to read them."""

    root: str = Field(description="Folder or filesystem URL (s3://…, gs://…) that holds the splits")
    train: str = "train"
    valid: str = "valid"
    test: str = "test"
    shuffle_row_groups: int = Field(
        8, ge=1, description="Row groups that are held in memory at once and shuffled together"
    )
    prefetch_batches: int = Field(4, ge=1, description="Finished batches kept ready in background")
    group: GroupConfig | None = Field(
        None, description="How `recsys data group` turns an impression log into requests"
    )

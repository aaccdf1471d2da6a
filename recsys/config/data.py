"""Where the request tables are and how they are read."""

from os.path import normpath
from pathlib import PurePosixPath

from pydantic import Field, field_validator

from recsys.config.group import GroupConfig
from recsys.config.section import Section


class DataConfig(Section):
    """`data:` – folders of Parquet files in the request-table format, and how to read them."""

    root: str = Field(description="Folder or filesystem URL (s3://…, gs://…) that holds the splits")
    train: str | tuple[str, ...] = Field(
        "train",
        description="Folder of the split under `root`, or a list of them: [train, valid] retrains "
        "on all once the choices are made, under `training.early_stopping.monitor: none`",
    )
    valid: str = Field("valid", description="The split that early stopping and choices look at")
    test: str = Field("test", description="The split that only `recsys evaluate` reads")
    axis: str = Field(
        "surface",
        description="Column of the request table whose values are the names under `surfaces`: "
        "the product's surface, or a tenant, a region, a class of devices",
    )
    fallback: str | None = Field(
        None,
        description="Surface as which requests of any other value of the axis are scored, and "
        "counted. Training and evaluation stay strict. Default: such a value is an error",
    )
    surfaces: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Train and evaluate on these surfaces alone and pass over the rows of the "
        "others. Default: all",
    )
    elsewhere: tuple[str, ...] = Field(
        (),
        description="Surfaces that are not this configuration's and whose rows are passed over. "
        "An export writes the joint model's other ones here",
    )
    shuffle_row_groups: int = Field(
        32,
        ge=1,
        description="Row groups that are held in memory at once and shuffled together. In files "
        "sorted by user it takes many: a user's requests should not come all at once",
    )
    prefetch_batches: int = Field(4, ge=1, description="Finished batches kept ready in background")
    group: GroupConfig | None = Field(
        None, description="How `recsys data group` turns an impression log into requests"
    )

    def folders(self, split: str) -> tuple[str, ...]:
        """The folders of `train`, `valid` or `test` under `root`."""
        found = getattr(self, split)
        return (found,) if isinstance(found, str) else tuple(found)

    def overlap(self, one: str, other: str) -> bool:
        """Whether one of two folders under `root` holds the other: all that is inside is read."""
        a, b = (PurePosixPath(normpath(f"{self.root}/{each}")) for each in (one, other))
        return a.is_relative_to(b) or b.is_relative_to(a)

    @field_validator("train")
    @classmethod
    def _some_folder(cls, train: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not train:
            raise ValueError("is empty; name at least one folder")
        return train

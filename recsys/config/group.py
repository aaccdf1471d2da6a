"""How an impression-level log becomes a request table (`recsys data group`)."""

from collections import Counter
from collections.abc import Iterable

from pydantic import Field, model_validator

from recsys.config.section import Section

# Columns that the request table has by itself.
_OWN_COLUMNS = ("request_id", "surface", "time", "history", "candidates")


class GroupHistoryConfig(Section):
    """`data.group.history:`: the user's earlier events, strictly before the request, oldest first.

    An event is an impression of any surface, known from its own time on. An event at the very time
    of the request's first impression is not part of its history.
    """

    length: int = Field(50, ge=1, description="Latest events kept of each request")
    where: str | None = Field(
        None,
        min_length=1,
        description="Which impressions are events: a SQL condition on the columns of the log, "
        'e.g. "is_click = 1". Default: all.',
    )
    fields: dict[str, str] = Field(
        min_length=1, description="Name in the history: column of the log, e.g. video_id: video_id"
    )
    age: bool = Field(
        False, description="Add a field `age`: ms from the event to the request, at least 1"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "GroupHistoryConfig":
        _refuse_duplicates("fields", [*self.fields, *(["age"] if self.age else [])])
        return self


class GroupConfig(Section):
    """`data.group:`: which column of the log is what; one row of the log is one impression.

    Requests are given by the `request` column, or else by time: impressions of one user on one
    surface belong to the same request while each follows the one before within `gap` seconds.
    """

    user: str = Field(description="Column with the user's id; also a column of the request")
    time: str = Field(
        description="Column with the time of the impression: int (ms since epoch) or timestamp"
    )
    surface: str = Field(description="Column with the surface")
    request: str | None = Field(
        None,
        description="Column with the request's id (int or string). Its impressions must agree on "
        "user, surface and request_columns. Default: requests are found by `gap`.",
    )
    gap: float = Field(
        60.0, ge=0, description="Longest pause in seconds inside a request; without `request` only"
    )
    position: str | None = Field(
        None,
        description="Column that orders the candidates of a request. Default: by time, then as in "
        "the log.",
    )
    request_columns: tuple[str, ...] = Field(
        (), description="Features of the request: the value at its first impression"
    )
    candidate_columns: tuple[str, ...] = Field((), description="Features of each candidate")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="Task: column with its label (0, 1 or null = unknown), e.g. click: is_click",
    )
    history: GroupHistoryConfig | None = Field(None, description="Default: no history column")

    @model_validator(mode="after")
    def _names_differ(self) -> "GroupConfig":
        if not self.candidate_columns:
            raise ValueError("candidate_columns: is empty; name at least the candidate's id")
        request = [self.user, *(c for c in self.request_columns if c != self.user)]
        _refuse_duplicates("request_columns", [*_OWN_COLUMNS, *request])
        _refuse_duplicates("candidate_columns and labels", [*self.candidate_columns, *self.labels])
        return self

    @property
    def columns(self) -> dict[str, str]:
        """Every column of the log that is read: column → the (first) key that names it."""
        named = [("user", self.user), ("time", self.time), ("surface", self.surface)]
        named += [("request", self.request)] if self.request else []
        named += [("position", self.position)] if self.position else []
        named += [("request_columns", column) for column in self.request_columns]
        named += [("candidate_columns", column) for column in self.candidate_columns]
        named += [(f"labels.{task}", column) for task, column in self.labels.items()]
        if self.history:
            named += [(f"history.fields.{f}", c) for f, c in self.history.fields.items()]
        return {column: key for key, column in reversed(named)}


def _refuse_duplicates(key: str, names: Iterable[str]) -> None:
    """SQL tells names apart without regard to case, so this does too."""
    counts = Counter(name.casefold() for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{key}: the name {twice[0]} is taken twice; rename one")

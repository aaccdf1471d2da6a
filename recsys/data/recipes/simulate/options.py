"""What a user may choose about a simulated log."""

from dataclasses import dataclass

from recsys.errors import UserError

DEFAULT_ITEMS = 1_000
MAX_SURFACES = 64
# A user's requests are simulated one after the other, so a log of very few, very active users would
# be slow and would not fit the memory bound.
MAX_REQUESTS_A_USER = 2_000


@dataclass(frozen=True)
class SimulateOptions:
    """The size and seed of a simulated log. Equal options give byte-identical files.

    Attributes:
        requests: Requests in all three splits together.
        candidates: Mean candidates a request, over all surfaces.
        surfaces: Number of surfaces, 1 to 64: home, search, related, surface_4, …
        seed: Seed of the world, of the users and of every draw.
        users: Number of users; `requests / 125` where not given.
        items: Number of items; 1,000 where not given.
        row_group_requests: Requests in one Parquet row group.
        file_requests: Requests in one Parquet file, at most.
        drift: 0 to 1, how far what users want has moved since the log of drift 0: same users and
            items, other sessions.
    """

    requests: int = 20_000
    candidates: int = 8
    surfaces: int = 3
    seed: int = 0
    users: int | None = None
    items: int | None = None
    row_group_requests: int = 2_048
    file_requests: int = 65_536
    drift: float = 0.0

    def __post_init__(self) -> None:
        _require("requests", self.requests, 1, 10**12)
        _require("surfaces", self.surfaces, 1, MAX_SURFACES)
        _require("seed", self.seed, 0, 2**63 - 1)
        if self.items is not None:
            _require("items", self.items, 100, 10_000_000)
        # A request shows an item once, so it cannot ask for a large part of all items.
        _require("candidates", self.candidates, 1, min(500, self.item_count // 10))
        if self.users is not None:
            lowest = -(-self.requests // MAX_REQUESTS_A_USER)
            _require("users", self.users, lowest, self.requests)
        _require("row_group_requests", self.row_group_requests, 1, 1_048_576)
        _require("file_requests", self.file_requests, self.row_group_requests, 10**9)
        if not 0 <= self.drift <= 1:
            raise UserError(f"drift: {self.drift} given; use a number from 0 to 1")

    @property
    def user_count(self) -> int:
        return self.users if self.users is not None else max(1, self.requests // 125)

    @property
    def item_count(self) -> int:
        return self.items if self.items is not None else DEFAULT_ITEMS


def _require(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name}: {value!r} given; use a whole number from {low:,} to {high:,}")

"""From log rows to impressions without repeats, and from impressions to requests."""

from dataclasses import dataclass

import numpy as np

from recsys.data.recipes.kuairand.options import SURFACE_TABS, KuaiRandOptions
from recsys.data.recipes.kuairand.read import Columns

# The log's `date` and hours are Beijing time.
LOCAL_OFFSET_MS = 8 * 3_600_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def merge_logs(logs: list[Columns]) -> tuple[Columns, int]:
    """One log in the order of time, repeated (user, video, time_ms, tab) rows dropped.

    The row that stays is the first one of the first file. Returns the columns and the number of
    rows dropped.
    """
    log = {name: np.concatenate([part[name] for part in logs]) for name in logs[0]}
    # lexsort is stable: among repeats, the first one read comes first. No other column takes
    # part in the order, so that a row's place never depends on an outcome.
    order = np.lexsort((log["tab"], log["video_id"], log["user_id"], log["time_ms"]))
    log = {name: column[order] for name, column in log.items()}
    same = np.ones(len(order), dtype=bool)
    same[:1] = False
    for name in ("time_ms", "user_id", "video_id", "tab"):
        same[1:] &= log[name][1:] == log[name][:-1]
    return {name: column[~same] for name, column in log.items()}, int(same.sum())


@dataclass
class Requests:
    """Requests as slices of a list of impressions.

    Attributes:
        rows: `[N]` indices into the log, sorted by user, request and time.
        offsets: `[R + 1]`; request r holds rows[offsets[r]:offsets[r + 1]].
        time: `[R]` time_ms of the first impression; every input is from before it.
    """

    rows: np.ndarray
    offsets: np.ndarray
    time: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """`[R]` log index of each request's first impression."""
        return self.rows[self.offsets[:-1]]

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def as_of(self) -> np.ndarray:
        """`[N]` the request's time for each candidate."""
        return np.repeat(self.time, self.sizes)


def group(log: Columns, options: KuaiRandOptions) -> Requests:
    """Groups impressions by user, tab, date and a pause of `request_gap_seconds`.

    A request begins where no earlier impression of the same user, tab and date lies within the
    gap: which requests begin before some moment does not depend on anything after it.
    """
    use = (log["date"] >= options.train_first) & (log["date"] <= options.test_last)
    if not options.keep_other_tabs:
        use &= np.isin(log["tab"], SURFACE_TABS)
    rows = np.flatnonzero(use)
    user, tab, date, time, video = (
        log[name][rows] for name in ("user_id", "tab", "date", "time_ms", "video_id")
    )
    # By date before time: a row logged on another date never joins, whatever its time.
    order = np.lexsort((video, time, date, tab, user))
    rows, user, tab, date, time = (x[order] for x in (rows, user, tab, date, time))
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = (user[1:] != user[:-1]) | (tab[1:] != tab[:-1]) | (date[1:] != date[:-1])
    begins[1:] |= np.diff(time) > options.request_gap_seconds * 1000
    starts = np.flatnonzero(begins)
    offsets = np.append(starts, len(rows))
    # Users in order, and a user's requests by time whatever the tab: neighbours share most of
    # their history, which then compresses away.
    by_time = np.lexsort((tab[starts], time[starts], user[starts]))
    sizes = np.diff(offsets)[by_time]
    new_offsets = np.append(0, np.cumsum(sizes))
    within = np.arange(len(rows)) - np.repeat(new_offsets[:-1], sizes)
    rows = rows[np.repeat(starts[by_time], sizes) + within]
    return Requests(rows=rows, offsets=new_offsets, time=time[starts][by_time])


def local_day_start(time_ms: np.ndarray) -> np.ndarray:
    """Midnight, Beijing time, of the day of each time; ms since epoch."""
    return (time_ms + LOCAL_OFFSET_MS) // DAY_MS * DAY_MS - LOCAL_OFFSET_MS

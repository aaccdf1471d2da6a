"""Features of users and videos that no log row changes."""

import numpy as np

from recsys.data.recipes.kuairand import read
from recsys.data.recipes.kuairand.read import Columns

# Seconds. Fixed and finest around 18 s, below which a long view means watching to the end.
DURATION_EDGES = (6, 8, 10, 12, 14, 16, 18, 22, 28, 36, 48, 60, 80, 110, 160, 240)
UNKNOWN_DURATION = len(DURATION_EDGES) + 1


def duration_bucket(duration_ms: np.ndarray) -> np.ndarray:
    """0 … 16 by `DURATION_EDGES`, 17 where the duration is unknown (logged as 0)."""
    bucket = np.searchsorted(np.array(DURATION_EDGES) * 1000, duration_ms, side="right")
    return np.where(duration_ms > 0, bucket, UNKNOWN_DURATION).astype(np.int64)


class RowsById:
    """Rows of a table by its id column."""

    def __init__(self, ids: np.ndarray):
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, -1 where the table lacks it."""
        if not len(self._ids):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[place] == ids, self._order[place], -1)


def take(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """column[rows], with NaN (numbers) or None (objects) where the row is -1."""
    missing = None if column.dtype == object else np.nan
    if not len(column):
        return np.full(len(rows), missing, dtype=object if missing is None else float)
    taken = column[np.maximum(rows, 0)]
    if column.dtype != object:
        taken = taken.astype(np.float64)
    taken[rows < 0] = missing
    return taken


class Videos:
    """The video table, or an empty one where the file was not found."""

    def __init__(self, table: Columns | None):
        if table is None:
            table = {
                name: np.zeros(0)
                for name in (*read.VIDEO_NUMBERS, read.VIDEO_DURATION, "upload_day")
            }
            table |= {"video_id": np.zeros(0, np.int64)}
            table |= {name: np.zeros(0) for name in read.VIDEO_IDS}
            table |= {name: np.zeros(0, object) for name in (*read.VIDEO_STRINGS, "tag")}
        self.table = table
        self.row = RowsById(table["video_id"])
        texts = [text.split(",") if text else [] for text in table["tag"]]
        self.tags = [[int(tag) for tag in text] for text in texts]
        self._first_tag = np.array([tags[0] if tags else -1 for tags in self.tags], np.int64)

    def first_tag(self, video: np.ndarray) -> np.ndarray:
        """int64, -1 where the video is unknown or has no tag."""
        rows = self.row(video)
        if not len(self._first_tag):
            return np.full(len(video), -1)
        return np.where(rows >= 0, self._first_tag[np.maximum(rows, 0)], -1)

    def author(self, video: np.ndarray) -> np.ndarray:
        """int64, -1 where the video is unknown."""
        author = take(self.table["author_id"], self.row(video))
        return np.where(np.isnan(author), -1, author).astype(np.int64)

    def duration_ms(self, video: np.ndarray) -> np.ndarray:
        """float64, 0 where it is not known."""
        return np.nan_to_num(take(self.table[read.VIDEO_DURATION], self.row(video)))

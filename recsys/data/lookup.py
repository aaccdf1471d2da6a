"""Finding the row of each of many ids at once."""

import numpy as np

# Rows are kept in the narrowest of these that holds them.
DTYPES = (np.uint8, np.uint16, np.int32, np.int64)
# An odd number close to 2⁶⁴ divided by the golden ratio (Knuth, TAOCP 3, 6.4).
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def narrowest(rows: int) -> np.dtype:
    """The type of rows 0 to `rows`."""
    return np.dtype(next(each for each in DTYPES if rows <= np.iinfo(each).max))


class HashIndex:
    """Maps `keys[i]`, distinct int64, to row i + 1, and any other key to row 0.

    Open addressing with linear probing, at most a quarter full, a pass of numpy a probe.
    """

    def __init__(self, keys: np.ndarray) -> None:
        bits = max((4 * len(keys)).bit_length(), 4)
        self._shift = np.uint64(64 - bits)
        self._mask = (1 << bits) - 1
        self._keys = np.zeros(1 << bits, dtype=np.int64)
        self._rows = np.zeros(1 << bits, dtype=narrowest(len(keys)))
        rows, slots = np.arange(1, len(keys) + 1), self._slots(keys)
        while len(rows):
            free = self._rows[slots] == 0
            self._rows[slots[free]] = rows[free]
            # Of several that met in a slot, one is in it now; the others go on to the next.
            won = self._rows[slots] == rows
            self._keys[slots[won]] = keys[won]
            keys, rows, slots = keys[~won], rows[~won], (slots[~won] + 1) & self._mask

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key."""
        slots = self._slots(keys)
        found = self._rows.take(slots)
        other = self._keys.take(slots) != keys
        # Another key is in the slot: look into the next ones, up to an empty one.
        left = np.flatnonzero(other & (found != 0))
        found *= ~other
        slots = slots[left]
        while len(left):
            slots = (slots + 1) & self._mask
            rows = self._rows.take(slots)
            same = self._keys.take(slots) == keys[left]
            found[left[same]] = rows[same]
            more = ~same & (rows != 0)
            left, slots = left[more], slots[more]
        return found

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        return ((keys.view(np.uint64) * MULTIPLIER) >> self._shift).view(np.int64)

"""Hash functions that are the same on every machine and version."""

import numpy as np
import pyarrow as pa
import xxhash


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Mixes uint64 values one-to-one (Steele, Lea & Flood, 2014): the output of SplitMix64 whose
    state before the step is `x`. Returns a new array."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def xxh64(strings: pa.Array) -> np.ndarray:
    """xxHash64, seed 0, of the UTF-8 bytes of each string; 0 for null. `[n]` uint64.

    Costs a Python call a string: give it unique strings.
    """
    digest = xxhash.xxh64_intdigest
    hashes = (0 if s is None else digest(s) for s in strings.cast(pa.large_binary()).to_pylist())
    return np.fromiter(hashes, dtype=np.uint64, count=len(strings))

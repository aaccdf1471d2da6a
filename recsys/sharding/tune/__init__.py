"""Search sharding plans by estimate, then measure the best few by real steps."""

from recsys.sharding.tune.tune import Tuning, tune

__all__ = ["Tuning", "tune"]

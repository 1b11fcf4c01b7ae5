"""One vocabulary for one device and many: strategies, replica numbers and exact collectives."""

from tfcontrast.distribute.collectives import (
    all_sum,
    first_row,
    gather,
    num_replicas,
    permutation,
    replica_id,
    shuffle,
    unshuffle,
)
from tfcontrast.distribute.strategies import (
    STRATEGIES,
    any_worker,
    chiefs_arrays,
    is_chief,
    make_strategy,
    num_workers,
    worker_share,
)

__all__ = [
    "STRATEGIES",
    "all_sum",
    "any_worker",
    "chiefs_arrays",
    "first_row",
    "gather",
    "is_chief",
    "make_strategy",
    "num_replicas",
    "num_workers",
    "permutation",
    "replica_id",
    "shuffle",
    "unshuffle",
    "worker_share",
]

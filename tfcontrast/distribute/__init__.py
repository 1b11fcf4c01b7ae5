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
from tfcontrast.distribute.parts import part_of_share, rows_in_batch
from tfcontrast.distribute.strategies import (
    STRATEGIES,
    any_worker,
    chiefs_arrays,
    has_accelerator,
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
    "has_accelerator",
    "is_chief",
    "make_strategy",
    "num_replicas",
    "num_workers",
    "part_of_share",
    "permutation",
    "replica_id",
    "rows_in_batch",
    "shuffle",
    "unshuffle",
    "worker_share",
]

"""One vocabulary for one device and many: strategies, replica numbers and exact collectives."""

from tfcontrast.distribute.collectives import all_sum, first_row, gather, num_replicas, replica_id
from tfcontrast.distribute.strategies import STRATEGIES, is_chief, make_strategy

__all__ = [
    "STRATEGIES",
    "all_sum",
    "first_row",
    "gather",
    "is_chief",
    "make_strategy",
    "num_replicas",
    "replica_id",
]

"""Which images a replica works on where its share of a batch passes the networks in parts."""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

from tfcontrast.distribute.collectives import replica_id

# Replicas are threads, which change places at every collective: each has its own value.
_PART: contextvars.ContextVar[tuple[tf.Tensor | int, int]] = contextvars.ContextVar(
    "part", default=(0, 1)
)


@contextlib.contextmanager
def part_of_share(number: tf.Tensor | int, count: int) -> Iterator[None]:
    """Within it this replica works on every ``count``-th image of its share.

    So part k of all replicas together is every ``count``-th image of the global batch, however many
    replicas hold it.

    Args:
        number: of the part, from 0; an int32 scalar or a number.
        count: how many parts there are.
    """
    token = _PART.set((number, count))
    try:
        yield
    finally:
        _PART.reset(token)


def rows_in_batch(count: int | tf.Tensor) -> tf.Tensor:
    """Where the images that this replica works on stand in the global batch.

    Args:
        count: how many they are.

    Returns:
        int32 [count].
    """
    number, parts = _PART.get()
    return (replica_id() * count + tf.range(count)) * parts + number

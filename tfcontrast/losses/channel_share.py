"""How replicas share the work on a matrix of channel against channel.

Losses that compare channels (Barlow Twins, VICReg) need the statistics of the whole batch and a D x
D matrix. Every replica holds the gathered batch and computes the rows of that matrix that belong to
its own D / R channels: nothing is computed twice, and the mean over replicas of R times the parts
is the whole sum.
"""

from typing import NamedTuple

import tensorflow as tf


class ChannelShare(NamedTuple):
    """One replica's channels.

    Attributes:
        columns: [B, w] this replica's channels of the batch; zeros after the last channel.
        diagonal: bool [w, D], True where a channel of ``columns`` meets itself.
        replicas: R, the number of shares.
    """

    columns: tf.Tensor
    diagonal: tf.Tensor
    replicas: int | tf.Tensor


def channel_share(
    batch: tf.Tensor, *, local_rows: int | tf.Tensor, first_row: int | tf.Tensor = 0
) -> ChannelShare:
    """Takes the channels that belong to the replica whose rows start at ``first_row``.

    Args:
        batch: [B, D], the whole batch.
        local_rows: b, rows of each replica; R = B / b.
        first_row: row of ``batch`` where the replica's own block starts, a multiple of b.

    Returns:
        The share; w = ceil(D / R).

    Raises:
        ValueError: replicas with unequal numbers of rows.

    Example:
        >>> share = channel_share(tf.constant([[1.0, 2, 3], [4, 5, 6]]), local_rows=1, first_row=1)
        >>> share.columns.numpy().tolist(), share.replicas
        ([[3.0, 0.0], [6.0, 0.0]], 2)
    """
    rows = _size(batch, 0)
    channels = _size(batch, 1)
    known = [size for size in (rows, local_rows, first_row) if isinstance(size, int)]
    if isinstance(local_rows, int) and any(size % local_rows for size in known):
        raise ValueError(
            "replicas must hold equally many rows."
            f" Received: {local_rows} rows from row {first_row} of {rows}"
        )
    replicas = rows // local_rows
    width = -(-channels // replicas)
    start = tf.cast(first_row, tf.int32) // local_rows * width
    padded = tf.pad(batch, [[0, 0], [0, replicas * width - channels]])
    columns = tf.slice(padded, [0, start], [rows, width])
    diagonal = (start + tf.range(width))[:, None] == tf.range(channels)
    return ChannelShare(columns, diagonal, replicas)


def _size(tensor: tf.Tensor, axis: int) -> int | tf.Tensor:
    """A dimension as a number where it is known before the step, else as a tensor."""
    return tf.shape(tensor)[axis] if tensor.shape[axis] is None else int(tensor.shape[axis])

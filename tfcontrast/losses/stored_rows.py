"""Rows that a loss compares with but does not teach: keys, queues and memory banks."""

import tensorflow as tf

from tfcontrast.losses.arguments import float_tensor


def stored_rows(value: tf.Tensor, name: str, *, like: tf.Tensor) -> tf.Tensor:
    """Takes rows as constants, in the precision of the rows that they meet.

    Args:
        value: [n, d] floating-point rows or variable. They are not normalised: a queue or a bank is
            used as it was written.
        name: the argument's name, for the message.
        like: [b, d], the rows that learn.

    Returns:
        [n, d] in ``like``'s type, without gradient.

    Raises:
        ValueError: not a floating-point matrix, or of another width.

    Example:
        >>> stored_rows(tf.ones([3, 2]), "keys", like=tf.ones([5, 2])).shape.as_list()
        [3, 2]
    """
    rows = float_tensor(value, name, rank=2)
    if not rows.shape[1:].is_compatible_with(like.shape[1:]):
        raise ValueError(
            f"{name} must be as wide as the rows they are compared with."
            f" Received: shapes {rows.shape} and {like.shape}"
        )
    return tf.stop_gradient(tf.cast(rows, like.dtype))


def row_numbers(
    value: tf.Tensor, name: str, *, rank: int, like: tf.Tensor | None = None
) -> tf.Tensor:
    """Takes the numbers of stored rows, one or several for each row of the batch.

    Args:
        value: [b, ...] int32 or int64.
        name: the argument's name, for the message.
        rank: dimensions that the loss expects.
        like: [b, ...], the batch that the numbers belong to; None when there is nothing to compare.

    Returns:
        The same numbers, int64.

    Raises:
        ValueError: not integers, of another rank, or for another batch.

    Example:
        >>> row_numbers([4, 0], "indices", rank=1, like=tf.ones([2, 3])).numpy().tolist()
        [4, 0]
    """
    numbers = tf.convert_to_tensor(value)
    if not numbers.dtype.is_integer:
        raise ValueError(f"{name} must be integers. Received: dtype {numbers.dtype.name}")
    if numbers.shape.rank != rank or 0 in numbers.shape:
        raise ValueError(
            f"{name} must have {rank} non-empty dimensions. Received: shape {numbers.shape}"
        )
    if like is not None and not numbers.shape[:1].is_compatible_with(like.shape[:1]):
        raise ValueError(
            f"{name} must have one entry per row of the batch."
            f" Received: shapes {numbers.shape} and {like.shape}"
        )
    return tf.cast(numbers, tf.int64)

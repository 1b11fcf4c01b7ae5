"""What every loss checks about its arguments before it computes anything.

Shapes are checked when the function is traced, so that the checks cost nothing in a training step,
and only as far as they are known: a dimension of unknown size passes. Every failure is a
``ValueError`` that ends in what was received.
"""

from collections.abc import Sequence

import tensorflow as tf


def float_tensor(value: tf.Tensor, name: str, *, rank: int) -> tf.Tensor:
    """Gives embeddings the precision in which a loss is computed.

    Args:
        value: floating-point tensor or array with ``rank`` dimensions. bfloat16 and float16 become
            float32, since a softmax over thousands of candidates loses its tail in 8 or 11 bits;
            float64 stays.
        name: the argument's name, for the message.
        rank: number of dimensions that the loss expects.

    Returns:
        The same values in float32 or float64.

    Raises:
        ValueError: not floating point, of another rank, or with no rows.
    """
    tensor = tf.convert_to_tensor(value)
    if not tensor.dtype.is_floating:
        raise ValueError(f"{name} must be floating point. Received: dtype {tensor.dtype.name}")
    if tensor.shape.rank != rank or 0 in tensor.shape:
        raise ValueError(
            f"{name} must have {rank} non-empty dimensions. Received: shape {tensor.shape}"
        )
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def check_positive(value: float, name: str) -> None:
    """Refuses a temperature (or another divisor) that is not above zero.

    Args:
        value: the number.
        name: the argument's name, for the message.

    Raises:
        ValueError: zero, negative or not a number.
    """
    if not value > 0:
        raise ValueError(f"{name} must be above 0. Received: {value}")


def check_option(value: str, name: str, accepted: Sequence[str]) -> None:
    """Refuses a word that is not one of the accepted ones.

    Args:
        value: the word.
        name: the argument's name, for the message.
        accepted: all accepted words.

    Raises:
        ValueError: another word.
    """
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}. Received: {value!r}")


def check_same_shape(first: tf.Tensor, second: tf.Tensor, names: str) -> None:
    """Refuses two tensors whose known dimensions differ.

    Args:
        first: any tensor.
        second: any tensor.
        names: both arguments' names, for the message.

    Raises:
        ValueError: the static shapes contradict each other.
    """
    if not first.shape.is_compatible_with(second.shape):
        raise ValueError(
            f"{names} must have the same shape. Received: {first.shape} and {second.shape}"
        )


def check_block(local: tf.Tensor, pool: tf.Tensor | None, first_row: int | tf.Tensor) -> None:
    """Checks that the local rows can stand at ``first_row`` of the gathered rows.

    Args:
        local: [b, ..., d] rows of this replica.
        pool: [B, ..., d] rows of all replicas; None when the local rows are all there are.
        first_row: global number of local row 0. Only a Python number can be checked; a tensor is
            known too late.

    Raises:
        ValueError: other inner dimensions, fewer candidates than anchors, or a block that ends
            after the last row.
    """
    if pool is None:
        if isinstance(first_row, int) and first_row != 0:
            raise ValueError(f"first_row needs candidates. Received: first_row={first_row}")
        return
    if not local.shape[1:].is_compatible_with(pool.shape[1:]):
        raise ValueError(
            "candidates must be rows like the local ones."
            f" Received: shapes {local.shape} and {pool.shape}"
        )
    if local.shape[0] is None or pool.shape[0] is None:
        return
    start = first_row if isinstance(first_row, int) else 0
    if not 0 <= start <= pool.shape[0] - local.shape[0]:
        raise ValueError(
            f"local rows must lie inside the candidates. Received: {local.shape[0]} rows from"
            f" row {start} of {pool.shape[0]}"
        )

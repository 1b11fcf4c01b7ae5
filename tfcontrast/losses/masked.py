"""Reductions over some columns of a matrix, with exact zeros, also in gradients, for the others.

A mask is boolean and is applied by selection, never by adding a large negative number or by
multiplying: a column that is masked out cannot reach the result, and an infinity in it cannot
become ``0 * inf`` in the gradient.
"""

import tensorflow as tf


def masked_log_sum_exp(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The logarithm of the sum of exponentials of the columns that the mask keeps.

        out_i = m_i + log sum_{k in mask_i} exp(x_ik - m_i),        m_i = max_{k in mask_i} x_ik

    The maximum is taken over the kept columns only. An anchor's similarity to itself is the largest
    of its row; were it to set the shift, then at temperature 0.01 every other term would underflow
    and the logarithm would see zero.

    Args:
        values: [rows, columns], any finite logits.
        mask: bool [rows, columns], True for the columns that count.

    Returns:
        [rows]; 0 for a row that keeps no column (its gradient is zero too).

    Example:
        >>> x, keep = tf.constant([[1000.0, 5.0, 5.0]]), tf.constant([[False, True, True]])
        >>> round(float(masked_log_sum_exp(x, keep)[0]), 4)  # 5 + log 2
        5.6931
    """
    lowest = tf.constant(values.dtype.min, values.dtype)
    shift = tf.reduce_max(tf.where(mask, values, lowest), axis=-1, keepdims=True)
    shift = tf.stop_gradient(shift)
    outside = tf.constant(float("-inf"), values.dtype)
    total = tf.reduce_sum(tf.exp(tf.where(mask, values - shift, outside)), axis=-1)
    some = tf.reduce_any(mask, axis=-1)
    logs = tf.math.log(tf.where(some, total, tf.ones_like(total)))
    return tf.where(some, shift[..., 0] + logs, tf.zeros_like(total))


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The mean of the columns that the mask keeps.

    Args:
        values: [rows, columns].
        mask: bool [rows, columns], True for the columns that count.

    Returns:
        [rows]; 0 for a row that keeps no column.

    Example:
        >>> x = tf.constant([[1.0, 3.0], [1.0, 3.0]])
        >>> keep = tf.constant([[True, True], [False, False]])
        >>> masked_mean(x, keep).numpy().tolist()
        [2.0, 0.0]
    """
    count = tf.reduce_sum(tf.cast(mask, values.dtype), axis=-1)
    total = tf.reduce_sum(tf.where(mask, values, tf.zeros_like(values)), axis=-1)
    return total / tf.maximum(count, 1)

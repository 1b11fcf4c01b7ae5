"""L2 normalisation that is safe at the origin."""

import tensorflow as tf

# The squared norm below which a vector counts as zero: (1e-12)^2, a normal number in float32.
_TINY = 1e-24


def unit_rows(rows: tf.Tensor) -> tf.Tensor:
    """Scales every vector along the last axis to length one.

        u = x / ||x||        and u = 0 where ||x|| <= 1e-12

    A zero vector has no direction. It stays zero, has cosine 0 with everything, and receives a zero
    gradient: the usual ``x / max(||x||, eps)`` would send it a gradient of size 1/eps, and one dead
    embedding would end the run.

    Args:
        rows: [..., d], float32 or float64.

    Returns:
        [..., d], the same type.

    Example:
        >>> unit_rows(tf.constant([[3.0, 4.0], [0.0, 0.0]])).numpy().round(4).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    squared = tf.reduce_sum(tf.square(rows), axis=-1, keepdims=True)
    inverse = tf.math.rsqrt(tf.maximum(squared, _TINY))
    return rows * tf.where(squared > _TINY, inverse, tf.zeros_like(inverse))

"""What a view that is not finite does to the other views of its step."""

from collections.abc import Sequence

import tensorflow as tf


def spoil_together(views: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Makes this replica's views all NaN when one of them is not finite.

    The step is skipped then. Views that pass the networks one by one would still leave traces of
    it: moved statistics of batch norm, keys in a queue.

    Args:
        views: float tensors of any shapes.

    Returns:
        As many tensors: the same values, or NaN everywhere.
    """
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(view)) for view in views])
    return tuple(view + tf.where(finite, tf.zeros([], view.dtype), float("nan")) for view in views)

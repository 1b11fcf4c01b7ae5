"""InfoNCE's loss and accuracy in one pass over tiles of logits, for ``info_nce``'s two forms."""

import tensorflow as tf

from tfcontrast.losses.tiled_softmax import Exclusion, tiled_softmax


def tiled_queue_nce(
    queries: tf.Tensor, keys: tf.Tensor, negatives: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """``info_nce`` and the accuracy of its logits, which are not held.

    Args:
        queries: [b, d] unit rows divided by the temperature; the only argument with a gradient.
        keys: [b, d] unit rows, each query's own key.
        negatives: [K, d] rows of the queue.

    Returns:
        The mean loss, and the share of queries whose key is better than all negatives.

    Example:
        >>> loss, accuracy = tiled_queue_nce(tf.eye(2), tf.eye(2), tf.zeros([3, 2]))
        >>> round(float(loss), 4), float(accuracy)  # log(1 + 3 / e)
        (0.7437, 1.0)
    """
    positives = tf.reduce_sum(queries * keys, axis=1)
    softmax = tiled_softmax(queries, negatives, keys_learn=False)
    found = tf.stop_gradient(positives) > softmax.best
    return _means(softmax.log_sum_exp - positives, found)


def tiled_in_batch_nce(
    queries: tf.Tensor, pool: tf.Tensor, targets: tf.Tensor, *, gradient_to: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """``in_batch_info_nce`` and the accuracy of its logits, which are not held.

    Args:
        queries: [b, d] unit rows divided by the temperature.
        pool: [B, d] unit rows.
        targets: int32 [b], the row of ``pool`` that is each query's own.
        gradient_to: ``queries`` or ``keys``, the side that learns.

    Returns:
        The mean loss, and the share of queries whose own key is better than all others.

    Example:
        >>> places = tf.range(2)
        >>> loss, accuracy = tiled_in_batch_nce(
        ...     tf.eye(2), tf.eye(2), places, gradient_to="queries"
        ... )
        >>> round(float(loss), 4), float(accuracy)  # log(1 + 1 / e)
        (0.3133, 1.0)
    """
    positives = tf.reduce_sum(queries * tf.gather(pool, targets), axis=1)
    softmax = tiled_softmax(
        queries,
        pool,
        exclusion=Exclusion(own=targets),
        queries_learn=gradient_to == "queries",
        keys_learn=gradient_to == "keys",
    )
    # Not ``positives``: equal rows must tie, so both sides come from the same product.
    return _means(softmax.log_sum_exp - positives, softmax.own > softmax.best)


def _means(excess: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Means of log(1 + exp(log-sum-exp of the others - positive)) and of the hits."""
    accuracy = tf.reduce_mean(tf.cast(found, excess.dtype))
    return tf.reduce_mean(tf.math.softplus(excess)), accuracy

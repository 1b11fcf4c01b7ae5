"""Softmax cross-entropy with label smoothing (Szegedy et al., 2016, arXiv:1512.00567)."""

import tensorflow as tf


def cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, *, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Mean over the batch of the cross-entropy between targets and softmax(logits).

    With smoothing e and C classes the target is ``1 - e + e / C`` for the label and ``e / C`` for
    every other class (Szegedy et al., Section 7), so the loss is ``(1 - e) CE(label) + e mean_c
    CE(c)``.

    Args:
        logits: [batch, classes]; half precision is lifted to float32.
        labels: [batch] integers in [0, classes).
        label_smoothing: e, in [0, 1).

    Returns:
        A scalar in nats.

    Raises:
        ValueError: shapes or smoothing do not fit.

    Example:
        >>> loss = cross_entropy(tf.zeros([2, 4]), tf.constant([0, 3]))
        >>> bool(abs(float(loss) - 1.3862944) < 1e-6)
        True
    """
    if logits.shape.rank != 2 or labels.shape.rank != 1:
        raise ValueError(
            f"logits must be [batch, classes] and labels [batch]. Received: {logits.shape} and "
            f"{labels.shape}"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1). Received: {label_smoothing}")
    if logits.dtype not in (tf.float32, tf.float64):
        logits = tf.cast(logits, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if label_smoothing:
        spread = -tf.reduce_mean(tf.nn.log_softmax(logits), 1)
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return tf.reduce_mean(losses)

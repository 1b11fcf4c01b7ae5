"""The linear probe that trains beside a method and never moves its encoder."""

from typing import Any

import keras
import tensorflow as tf

from tfcontrast import distribute


def train_probe(
    probe: keras.layers.Dense, optimizer: Any, features: tf.Tensor, labels: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Takes one step of the probe on every view.

    Args:
        probe: features to float32 logits.
        optimizer: built for the probe's variables; sums gradients over replicas.
        features: [V * B, D] of this replica, grouped by view, without gradient.
        labels: int64 [B].

    Returns:
        ``probe_loss`` and ``probe_top1`` of this replica, before the step.
    """
    labels = tf.tile(labels, [tf.shape(features)[0] // tf.shape(labels)[0]])
    with tf.GradientTape() as tape:
        logits = probe(features)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        share = loss / distribute.num_replicas()
    variables = probe.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(share, variables), variables, strict=True))
    hits = tf.equal(tf.argmax(logits, 1, output_type=labels.dtype), labels)
    return {"probe_loss": loss, "probe_top1": tf.reduce_mean(tf.cast(hits, tf.float32))}

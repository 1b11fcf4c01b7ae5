"""InfoNCE together with its accuracy: what methods log, from one pass over the logits."""

from typing import Any

import tensorflow as tf

from tfcontrast.losses.info_nce import (
    batch_rows,
    contrastive_accuracy,
    in_batch_info_nce,
    in_batch_logits,
    info_nce,
    info_nce_logits,
    queue_rows,
)
from tfcontrast.losses.tiled_nce import tiled_in_batch_nce, tiled_queue_nce
from tfcontrast.losses.tiled_softmax import in_tiles


def info_nce_with_accuracy(
    queries: tf.Tensor, keys: tf.Tensor, negatives: tf.Tensor, *, temperature: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """``info_nce`` and the ``contrastive_accuracy`` of its logits.

    Args:
        queries: [b, d], as for ``info_nce``, and so are the others.
        keys: [b, d].
        negatives: [K, d].
        temperature: t > 0.

    Returns:
        The loss, and the accuracy in [0, 1] without gradient.

    Raises:
        ValueError: as ``info_nce``.

    Example:
        >>> z = tf.ones([2, 4]) / 2
        >>> loss, accuracy = info_nce_with_accuracy(z, z, tf.ones([7, 4]) / 2, temperature=0.1)
        >>> round(float(loss), 4), float(accuracy)  # log 8; a tie is no hit
        (2.0794, 0.0)
    """
    if in_tiles(queries, negatives):
        return tiled_queue_nce(*queue_rows(queries, keys, negatives, temperature))
    logits = info_nce_logits(queries, keys, negatives, temperature=temperature)
    loss = info_nce(queries, keys, negatives, temperature=temperature)
    return loss, contrastive_accuracy(logits)


def in_batch_info_nce_with_accuracy(
    queries: tf.Tensor,
    keys: tf.Tensor,
    *,
    temperature: float,
    scale: str = "none",
    gradient_to: str = "queries",
    candidates: tf.Tensor | None = None,
    first_row: int | tf.Tensor = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """``in_batch_info_nce`` and the ``contrastive_accuracy`` of its logits.

    Args:
        queries: [b, d], as for ``in_batch_info_nce``, and so are the others.
        keys: [b, d].
        temperature: t > 0.
        scale: ``none`` or ``twice_temperature``; of the loss only.
        gradient_to: ``queries`` or ``keys``.
        candidates: [B, d] keys of all replicas, or None.
        first_row: row of ``candidates`` where local row 0 stands.

    Returns:
        The loss, and the accuracy in [0, 1] without gradient.

    Raises:
        ValueError: as ``in_batch_info_nce``.

    Example:
        >>> loss, accuracy = in_batch_info_nce_with_accuracy(
        ...     tf.eye(2), tf.eye(2), temperature=0.5
        ... )
        >>> round(float(loss), 4), float(accuracy)  # log(1 + exp(-2))
        (0.1269, 1.0)
    """
    where: dict[str, Any] = {
        "temperature": temperature,
        "gradient_to": gradient_to,
        "candidates": candidates,
        "first_row": first_row,
    }
    if in_tiles(queries, keys if candidates is None else candidates):
        rows = batch_rows(queries, keys, **where)
        loss, accuracy = tiled_in_batch_nce(*rows, gradient_to=gradient_to)
        return (loss if scale == "none" else 2 * temperature * loss), accuracy
    logits, targets = in_batch_logits(queries, keys, **where)
    loss = in_batch_info_nce(queries, keys, scale=scale, **where)
    return loss, contrastive_accuracy(logits, targets)

"""SupCon without the matrix of logits, for the denominators in which it needs no second pass.

An anchor's mean over its positives is a product with the sum of its class's rows; what is left is
one log-sum-exp, over all others or over the negatives, and for ``in`` one more over the positives.
"""

from typing import NamedTuple

import tensorflow as tf

from tfcontrast.losses.tiled_self_softmax import one_shift_serves, tiled_self_softmax
from tfcontrast.losses.tiled_softmax import Exclusion, tiled_softmax


class LabelledRows(NamedTuple):
    """Anchors and candidates of a batch, and what is the same as what.

    Attributes:
        anchors: [n, d] unit rows.
        pool: [m, d] unit rows; ``anchors`` itself where both are the same rows.
        own: int32 [n], the row of ``pool`` that is the anchor.
        classes: int32 [m], numbers from 0 below m; equal for the views of an image and for images
            of one label.
    """

    anchors: tf.Tensor
    pool: tf.Tensor
    own: tf.Tensor
    classes: tf.Tensor


def class_numbers(labels: tf.Tensor, unlabelled: int) -> tf.Tensor:
    """Numbers classes from 0 in the order of their labels; every unlabelled image is a class.

    Args:
        labels: int [B].
        unlabelled: the label that is no label.

    Returns:
        int32 [B], below B.

    Example:
        >>> class_numbers(tf.constant([7, -1, 7, 3, -1]), -1).numpy().tolist()
        [3, 0, 3, 2, 1]
    """
    order = tf.argsort(labels)
    ordered = tf.gather(labels, order)
    first = tf.not_equal(ordered[1:], ordered[:-1]) | tf.equal(ordered[1:], unlabelled)
    numbers = tf.concat([[0], tf.cumsum(tf.cast(first, tf.int32))], axis=0)
    return tf.gather(numbers, tf.argsort(order))


def tiled_supcon(rows: LabelledRows, *, temperature: float, variant: str, among: str) -> tf.Tensor:
    """Each anchor's loss, as ``supcon`` defines it.

    Args:
        rows: anchors, candidates and classes.
        temperature: t > 0.
        variant: ``out`` or ``in``.
        among: what the denominator sums over, ``all`` others or ``only_negatives``.

    Returns:
        [n], 0 for an anchor without positives, or without negatives where only they are summed.

    Example:
        >>> z = tf.eye(3)
        >>> batch = LabelledRows(z, z, tf.range(3), tf.constant([0, 0, 1]))
        >>> tiled_supcon(
        ...     batch, temperature=1.0, variant="out", among="all"
        ... ).numpy().round(3).tolist()  # log 2
        [0.6930000185966492, 0.6930000185966492, 0.0]
    """
    queries = rows.anchors / temperature
    own_classes = tf.gather(rows.classes, rows.own)
    members = tf.math.unsorted_segment_sum(
        tf.ones_like(rows.classes), rows.classes, rows.pool.shape[0]
    )
    class_size = tf.gather(members, own_classes)  # with the anchor itself
    count = tf.cast(class_size - 1, queries.dtype)

    if among == "all":
        log_sum_exp = _over_others(rows, temperature)
        counts = class_size > 1
    else:
        others = Exclusion(row_classes=own_classes, column_classes=rows.classes)
        log_sum_exp = tiled_softmax(queries, rows.pool, exclusion=others).log_sum_exp
        counts = (class_size > 1) & (class_size < rows.pool.shape[0])
    if variant == "out":
        sums = tf.math.unsorted_segment_sum(rows.pool, rows.classes, rows.pool.shape[0])
        positives = tf.gather(sums, own_classes) - tf.gather(rows.pool, rows.own)
        attraction = tf.reduce_sum(queries * positives, axis=1) / tf.maximum(count, 1)
    else:
        same = Exclusion(rows.own, own_classes, rows.classes, same_class=True)
        positives = tiled_softmax(queries, rows.pool, exclusion=same).log_sum_exp
        attraction = positives - tf.math.log(tf.maximum(count, 1))
    return tf.where(counts, log_sum_exp - attraction, tf.zeros_like(log_sum_exp))


def _over_others(rows: LabelledRows, temperature: float) -> tf.Tensor:
    """Log-sum-exp of every anchor over all rows but itself."""
    if rows.pool is rows.anchors and one_shift_serves(temperature):
        return tiled_self_softmax(rows.anchors, temperature=temperature)
    exclusion = Exclusion(own=rows.own)
    return tiled_softmax(rows.anchors / temperature, rows.pool, exclusion=exclusion).log_sum_exp

"""InfoNCE: pick an image's key out of a queue, or out of the batch.

He, Fan, Wu, Xie, Girshick: Momentum Contrast for Unsupervised Visual Representation Learning (2019,
arXiv:1911.05722) compares with a queue; Chen, Xie, He: An Empirical Study of Training
Self-Supervised Vision Transformers (MoCo v3, 2021, arXiv:2104.02057) and Dwibedi et al.: With a
Little Help from My Friends (NNCLR, 2021, arXiv:2104.14548) compare within the batch. The idea: a
query must be closer to its own key than to the keys of other images. From
``tiled_softmax.TILED_LOGITS`` logits on both losses are computed in tiles, equal to rounding.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import (
    check_block,
    check_option,
    check_positive,
    check_same_shape,
    float_tensor,
)
from tfcontrast.losses.stored_rows import stored_rows
from tfcontrast.losses.tiled_nce import tiled_in_batch_nce, tiled_queue_nce
from tfcontrast.losses.tiled_softmax import in_tiles
from tfcontrast.losses.unit_rows import unit_rows

LEARNERS = ("queries", "keys")
SCALES = ("none", "twice_temperature")


def info_nce_logits(
    queries: tf.Tensor, keys: tf.Tensor, negatives: tf.Tensor, *, temperature: float
) -> tf.Tensor:
    """The logits of ``info_nce``: [q . k, q . n_1, ..., q . n_K] / t, the key first.

    Args:
        queries: [b, d], L2-normalised here; the only argument with a gradient.
        keys: [b, d], L2-normalised here; row i is the positive of query i.
        negatives: [K, d] rows of the queue, used as they are stored (unit length in MoCo).
        temperature: t > 0.

    Returns:
        [b, 1 + K]; every row's target is column 0.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> queue = tf.constant([[0.0, 1.0], [-1.0, 0.0]])
        >>> q = tf.constant([[2.0, 0.0]])
        >>> info_nce_logits(q, q, queue, temperature=0.5).numpy().tolist()
        [[2.0, 0.0, -2.0]]
    """
    queries, keys, negatives = queue_rows(queries, keys, negatives, temperature)
    positives = tf.reduce_sum(queries * keys, axis=1, keepdims=True)  # [b, 1]
    others = tf.matmul(queries, negatives, transpose_b=True)  # [b, K]
    return tf.concat([positives, others], axis=1)


def queue_rows(
    queries: tf.Tensor, keys: tf.Tensor, negatives: tf.Tensor, temperature: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Checks the rows of ``info_nce`` and gives unit queries over t, unit keys and negatives."""
    check_positive(temperature, "temperature")
    queries = unit_rows(float_tensor(queries, "queries", rank=2))
    keys = unit_rows(stored_rows(keys, "keys", like=queries))
    check_same_shape(queries, keys, "queries and keys")
    # Divided here and not in the logits: [b, K] is large.
    return queries / temperature, keys, stored_rows(negatives, "negatives", like=queries)


def info_nce(
    queries: tf.Tensor, keys: tf.Tensor, negatives: tf.Tensor, *, temperature: float
) -> tf.Tensor:
    """Cross entropy of finding each query's key among the key and a queue of negatives.

        l_i = -log( exp(q_i . k_i / t) / (exp(q_i . k_i / t) + sum_n exp(q_i . n / t)) )

    Used by MoCo v1 and v2 and, with a row per location, by DenseCL. The gradient reaches the
    queries only: keys and negatives are constants, whatever computed them. Negatives are the queue
    only, never the other keys of the batch.

    Known values: log(K + 1) when all rows coincide; about log(K + 1) + 1 / (2 d t^2) - q . k / t
    against random unit rows.

    Args:
        queries: [b, d], L2-normalised here. float64 is computed in float64, everything else in
            float32.
        keys: [b, d], L2-normalised here; row i shows the same image as query i. Without gradient.
        negatives: [K, d] rows of the queue, used as stored. Without gradient.
        temperature: t > 0; 0.07 in MoCo v1, 0.2 in MoCo v2 and DenseCL.

    Returns:
        Scalar, the mean over the local queries. Its mean over replicas is the loss of the global
        batch: no candidates come from other replicas.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> z = tf.ones([2, 4]) / 2
        >>> round(float(info_nce(z, z, tf.ones([7, 4]) / 2, temperature=0.1)), 4)  # log 8
        2.0794
    """
    if in_tiles(queries, negatives):
        return tiled_queue_nce(*queue_rows(queries, keys, negatives, temperature))[0]
    logits = info_nce_logits(queries, keys, negatives, temperature=temperature)
    first = tf.zeros(tf.shape(logits)[:1], tf.int32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(first, logits))


def in_batch_logits(
    queries: tf.Tensor,
    keys: tf.Tensor,
    *,
    temperature: float,
    gradient_to: str = "queries",
    candidates: tf.Tensor | None = None,
    first_row: int | tf.Tensor = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The logits of ``in_batch_info_nce`` and the column of each row's own key.

    Args:
        queries: as for ``in_batch_info_nce``, and so are the other arguments.
        keys: [b, d].
        temperature: t > 0.
        gradient_to: ``queries`` or ``keys``.
        candidates: [B, d] keys of all replicas.
        first_row: row of ``candidates`` where local row 0 stands.

    Returns:
        Logits [b, B] = cos(q_i, k_j) / t, and int32 targets [b].

    Raises:
        ValueError: as ``in_batch_info_nce``.

    Example:
        >>> logits, targets = in_batch_logits(tf.eye(2), tf.eye(2), temperature=0.5)
        >>> logits.numpy().tolist(), targets.numpy().tolist()
        ([[2.0, 0.0], [0.0, 2.0]], [0, 1])
    """
    queries, pool, targets = batch_rows(
        queries,
        keys,
        temperature=temperature,
        gradient_to=gradient_to,
        candidates=candidates,
        first_row=first_row,
    )
    return tf.matmul(queries, pool, transpose_b=True), targets


def batch_rows(
    queries: tf.Tensor,
    keys: tf.Tensor,
    *,
    temperature: float,
    gradient_to: str,
    candidates: tf.Tensor | None,
    first_row: int | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Checks the rows of ``in_batch_info_nce``; unit queries over t, the unit pool, the targets."""
    check_positive(temperature, "temperature")
    check_option(gradient_to, "gradient_to", LEARNERS)
    queries = float_tensor(queries, "queries", rank=2)
    keys = float_tensor(keys, "keys", rank=2)
    check_same_shape(queries, keys, "queries and keys")
    pool = keys if candidates is None else float_tensor(candidates, "candidates", rank=2)
    check_block(keys, None if candidates is None else pool, first_row)
    if gradient_to == "queries":
        pool = tf.stop_gradient(pool)
    else:
        queries = tf.stop_gradient(queries)
    targets = tf.cast(first_row, tf.int32) + tf.range(tf.shape(queries)[0])
    return unit_rows(queries) / temperature, unit_rows(pool), targets


def in_batch_info_nce(
    queries: tf.Tensor,
    keys: tf.Tensor,
    *,
    temperature: float,
    scale: str = "none",
    gradient_to: str = "queries",
    candidates: tf.Tensor | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Cross entropy of finding each query's key among the keys of all images of the batch.

        l_i = -log( exp(s_ii / t) / sum_{j < B} exp(s_ij / t) ),        s_ij = cos(q_i, k_j)

    The softmax runs over the keys: queries are the rows, keys the columns. One direction, one view
    on each side; the other queries are no negatives.

    MoCo v3 calls it with predictions as queries and target projections as keys, ``scale=
    "twice_temperature"``, once per direction, and adds the two. NNCLR calls it with *neighbours as
    queries* and predictions as keys, ``gradient_to="keys"``, and averages the two directions: each
    neighbour must find the prediction of its image.

    Known values: log B when all rows coincide; 0 for a batch of one image.

    Args:
        queries: [b, d], L2-normalised here. float64 is computed in float64, everything else in
            float32.
        keys: [b, d], L2-normalised here; row i belongs to the image of query i.
        temperature: t > 0.
        scale: multiplies the loss by 1 (``none``) or 2 t (``twice_temperature``, MoCo v3).
        gradient_to: which side learns, ``queries`` or ``keys``; the other is a constant.
        candidates: on several replicas, all keys [B, d], which then replace ``keys``; gathered with
            gradients if the keys learn. None on one replica.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar, the mean over the local queries. Its mean over replicas is the loss of the global
        batch.

    Raises:
        ValueError: temperature not above 0, an unknown word, or shapes that do not fit together.

    Example:
        >>> z = tf.ones([4, 8])
        >>> round(float(in_batch_info_nce(z, z, temperature=0.2)), 4)  # log 4
        1.3863
    """
    check_option(scale, "scale", SCALES)
    rows, pool, targets = batch_rows(
        queries,
        keys,
        temperature=temperature,
        gradient_to=gradient_to,
        candidates=candidates,
        first_row=first_row,
    )
    if in_tiles(rows, pool):
        loss, _ = tiled_in_batch_nce(rows, pool, targets, gradient_to=gradient_to)
        return loss if scale == "none" else 2 * temperature * loss
    logits = tf.matmul(rows, pool, transpose_b=True)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
    return loss if scale == "none" else 2 * temperature * loss


def contrastive_accuracy(logits: tf.Tensor, targets: int | tf.Tensor = 0) -> tf.Tensor:
    """How often the positive is the best candidate.

    A tie with another candidate does not count. In a queue's logits the positive stands first, so
    an argmax would give a collapsed encoder, whose logits are all equal, an accuracy of 1.

    Args:
        logits: [b, n] as ``info_nce_logits`` or ``in_batch_logits`` gives them.
        targets: column of each row's positive, one number for all rows or integers [b].

    Returns:
        Scalar in [0, 1], without gradient: the mean over the local rows.

    Raises:
        ValueError: logits that are not a floating-point matrix.

    Example:
        >>> float(contrastive_accuracy(tf.constant([[2.0, 1.0], [1.0, 1.0]])))
        0.5
    """
    logits = tf.stop_gradient(float_tensor(logits, "logits", rank=2))
    targets = tf.broadcast_to(targets, tf.shape(logits)[:1])
    own = tf.gather(logits, targets, axis=1, batch_dims=1)
    at_least = tf.reduce_sum(tf.cast(logits >= own[:, None], tf.int32), axis=1)  # 1: itself only
    return tf.reduce_mean(tf.cast(at_least == 1, logits.dtype))

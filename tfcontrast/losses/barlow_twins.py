"""Barlow Twins: the channels of the two views' embeddings must agree, and differ from one another.

Zbontar, Jing, Misra, LeCun, Deny: Barlow Twins: Self-Supervised Learning via Redundancy Reduction
(2021, arXiv:2103.03230). The idea: make the cross-correlation matrix of the two views the identity.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import check_block, check_same_shape, float_tensor
from tfcontrast.losses.channel_share import channel_share

_EPSILON = 1e-5  # batch norm's


def barlow_twins_terms(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> dict[str, tf.Tensor]:
    """The two terms of Barlow Twins, unweighted.

        n = (z - mean) / sqrt(var + 1e-5)       per channel, over the batch, biased variance
        C = n1^T n2 / B                         [D, D]
        on_diagonal   sum_i (C_ii - 1)^2
        off_diagonal  sum_{i != j} C_ij^2

    Gradients reach both views. There is no temperature, and rows are not L2-normalised.

    Args:
        z1: [b, D] projections of the first views. float64 is computed in float64, everything else
            in float32.
        z2: [b, D] projections of the second views, row for row of the same images.
        candidates: on several replicas, (all z1, all z2) of the global batch, each [B, D], gathered
            with gradients; None on one replica. Each replica then computes D / R rows of C.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands; all
            replicas hold equally many rows.

    Returns:
        Scalars ``on_diagonal`` and ``off_diagonal``; the mean over replicas of each is the global
        batch's. One replica's value is R times the sum over its own rows of C.

    Raises:
        ValueError: shapes that do not fit together.

    Example:
        >>> z = tf.constant([[1.0], [-1.0]])
        >>> terms = barlow_twins_terms(z, -z)  # C is [[-1]]
        >>> {name: round(float(value), 3) for name, value in terms.items()}
        {'on_diagonal': 4.0, 'off_diagonal': 0.0}
    """
    z1, z2 = float_tensor(z1, "z1", rank=2), float_tensor(z2, "z2", rank=2)
    check_same_shape(z1, z2, "z1 and z2")
    all_z1, all_z2 = z1, z2
    if candidates is not None:
        all_z1 = float_tensor(candidates[0], "candidates[0]", rank=2)
        all_z2 = float_tensor(candidates[1], "candidates[1]", rank=2)
        check_same_shape(all_z1, all_z2, "the two candidates")
    check_block(z1, None if candidates is None else all_z1, first_row)

    local_rows = z1.shape[0] or tf.shape(z1)[0]
    share = channel_share(_standardised(all_z1), local_rows=local_rows, first_row=first_row)
    count = tf.cast(tf.shape(all_z1)[0], z1.dtype)
    correlation = tf.matmul(share.columns, _standardised(all_z2), transpose_a=True) / count
    nothing = tf.zeros_like(correlation)
    on_diagonal = tf.where(share.diagonal, tf.square(correlation - 1), nothing)
    off_diagonal = tf.where(share.diagonal, nothing, tf.square(correlation))
    replicas = tf.cast(share.replicas, z1.dtype)
    return {
        "on_diagonal": replicas * tf.reduce_sum(on_diagonal),
        "off_diagonal": replicas * tf.reduce_sum(off_diagonal),
    }


def barlow_twins(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    off_diagonal_weight: float = 0.0051,
    scale: float = 1.0,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Squared distance of the views' cross-correlation matrix from the identity.

        L = scale (on_diagonal + off_diagonal_weight off_diagonal)      see barlow_twins_terms

    Known values: 0 for equal and decorrelated views; off_diagonal_weight D (D - 1) / B for equal
    random views; D for a constant output and for a batch of one image, both without gradient.

    Args:
        z1: [b, D] projections of the first views.
        z2: [b, D] projections of the second views, row for row of the same images.
        off_diagonal_weight: lambda >= 0; the paper's 0.005 is 0.0051 in the authors' code.
        scale: multiplies the loss.
        candidates: on several replicas, (all z1, all z2), each [B, D], gathered with gradients.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar. Its mean over replicas is the loss of the global batch.

    Raises:
        ValueError: a negative weight, or shapes that do not fit together.

    Example:
        >>> z = tf.constant([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(barlow_twins(z, z)), 4)
        0.0

    Differs from the reference code: it sums the local products over replicas (a D x D collective)
    and every replica holds the whole loss; here the 2 B D numbers of the embeddings travel.
    """
    if not off_diagonal_weight >= 0:
        raise ValueError(
            f"off_diagonal_weight must not be negative. Received: {off_diagonal_weight}"
        )
    terms = barlow_twins_terms(z1, z2, candidates=candidates, first_row=first_row)
    return scale * (terms["on_diagonal"] + off_diagonal_weight * terms["off_diagonal"])


def _standardised(rows: tf.Tensor) -> tf.Tensor:
    """Every channel with mean 0 and variance 1 over the batch; a constant channel becomes 0."""
    centred = rows - tf.reduce_mean(rows, axis=0)
    variance = tf.reduce_mean(tf.square(centred), axis=0)
    return centred * tf.math.rsqrt(variance + _EPSILON)

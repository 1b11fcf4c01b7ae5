"""VICReg: equal views, channels that vary, channels that do not repeat one another.

Bardes, Ponce, LeCun: VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning (2021, arXiv:2105.04906).
"""

import tensorflow as tf

from tfcontrast.losses.arguments import check_block, check_same_shape, float_tensor
from tfcontrast.losses.channel_share import channel_share

_EPSILON = 1e-4  # inside the square root of the standard deviation


def vicreg_terms(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    halves: bool = True,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> dict[str, tf.Tensor]:
    """The three terms of VICReg, unweighted.

        invariance   mean_{i, c} (z1_ic - z2_ic)^2
        variance     h (v(z1) + v(z2)),   v(z) = mean_c max(0, 1 - sqrt(var_c + 1e-4))
        covariance   c(z1) + c(z2),       c(z) = sum_{i != j} cov(z)_ij^2 / D

    with h = 1/2, and variances and covariances that divide by B - 1. Rows are not L2-normalised,
    and gradients reach both views.

    Args:
        z1: [b, D] projections of the first views. float64 is computed in float64, everything else
            in float32.
        z2: [b, D] projections of the second views, row for row of the same images.
        halves: whether h is 1/2 (the authors' code) or 1.
        candidates: on several replicas, (all z1, all z2) of the global batch, each [B, D], gathered
            with gradients; None on one replica. Variance and covariance are the global batch's.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands; all
            replicas hold equally many rows.

    Returns:
        Scalars ``invariance``, ``variance`` and ``covariance``; the mean over replicas of each is
        the global batch's. A batch of one image has variance and covariance 0.

    Raises:
        ValueError: shapes that do not fit together.

    Example:
        >>> terms = vicreg_terms(tf.zeros([4, 2]), tf.ones([4, 2]))
        >>> {name: round(float(value), 4) for name, value in terms.items()}
        {'invariance': 1.0, 'variance': 0.99, 'covariance': 0.0}
    """
    z1, z2 = float_tensor(z1, "z1", rank=2), float_tensor(z2, "z2", rank=2)
    check_same_shape(z1, z2, "z1 and z2")
    both = (z1, z2)
    if candidates is not None:
        both = (
            float_tensor(candidates[0], "candidates[0]", rank=2),
            float_tensor(candidates[1], "candidates[1]", rank=2),
        )
        check_same_shape(*both, "the two candidates")
    check_block(z1, None if candidates is None else both[0], first_row)

    local_rows = z1.shape[0] or tf.shape(z1)[0]
    hinges, covariances = [], []
    for rows in both:
        hinge, covariance = _spread(rows, local_rows, first_row)
        hinges.append(hinge)
        covariances.append(covariance)
    return {
        "invariance": tf.reduce_mean(tf.square(z1 - z2)),
        "variance": tf.add_n(hinges) * (0.5 if halves else 1.0),
        "covariance": tf.add_n(covariances),
    }


def vicreg(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    halves: bool = True,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """The weighted sum of VICReg's three terms; see ``vicreg_terms``.

    Known values: 24.75 = 25 (1 - 0.01) for a constant output; 0 for equal, decorrelated views with
    unit variance.

    Args:
        z1: [b, D] projections of the first views.
        z2: [b, D] projections of the second views, row for row of the same images.
        invariance_weight: weight of the mean squared distance.
        variance_weight: weight of the hinge on the standard deviations.
        covariance_weight: weight of the squared covariances.
        halves: whether the variance term is the mean (the authors' code) or the sum of the views'.
        candidates: on several replicas, (all z1, all z2), each [B, D], gathered with gradients.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar. Its mean over replicas is the loss of the global batch.

    Raises:
        ValueError: a negative weight, or shapes that do not fit together.

    Example:
        >>> round(float(vicreg(tf.ones([4, 2]), tf.ones([4, 2]))), 4)
        24.75
    """
    weights = (invariance_weight, variance_weight, covariance_weight)
    if not min(weights) >= 0:
        raise ValueError(f"the three weights must not be negative. Received: {weights}")
    terms = vicreg_terms(z1, z2, halves=halves, candidates=candidates, first_row=first_row)
    return (
        invariance_weight * terms["invariance"]
        + variance_weight * terms["variance"]
        + covariance_weight * terms["covariance"]
    )


def _spread(
    rows: tf.Tensor, local_rows: int | tf.Tensor, first_row: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """v(z) of the whole batch, and R times this replica's part of c(z)."""
    freedom = tf.cast(tf.maximum(tf.shape(rows)[0] - 1, 1), rows.dtype)
    centred = rows - tf.reduce_mean(rows, axis=0)
    variance = tf.reduce_sum(tf.square(centred), axis=0) / freedom
    hinge = tf.reduce_mean(tf.nn.relu(1 - tf.sqrt(variance + _EPSILON)))

    share = channel_share(centred, local_rows=local_rows, first_row=first_row)
    covariance = tf.matmul(share.columns, centred, transpose_a=True) / freedom  # [D / R, D]
    squares = tf.where(share.diagonal, tf.zeros_like(covariance), tf.square(covariance))
    channels = tf.cast(tf.shape(rows)[1], rows.dtype)
    return hinge, tf.cast(share.replicas, rows.dtype) * tf.reduce_sum(squares) / channels

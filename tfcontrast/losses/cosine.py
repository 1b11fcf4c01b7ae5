"""Regression on the sphere: a prediction must point where the target points.

Grill et al.: Bootstrap Your Own Latent (BYOL, 2020, arXiv:2006.07733) and Chen, He: Exploring
Simple Siamese Representation Learning (SimSiam, 2020, arXiv:2011.10566). There are no negatives;
what prevents collapse is outside of the loss, but for the stop-gradient on the target.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import check_option, check_same_shape, float_tensor
from tfcontrast.losses.unit_rows import unit_rows

FORMS = ("squared_distance", "negative_cosine")


def cosine_regression(predictions: tf.Tensor, targets: tf.Tensor, *, form: str) -> tf.Tensor:
    """How far the predictions point away from the targets, in one direction.

        squared_distance (BYOL):     l_i = || p_i / |p_i| - z_i / |z_i| ||^2 = 2 - 2 cos(p_i, z_i)
        negative_cosine (SimSiam):   l_i = -cos(p_i, z_i)

    The target is a constant here, whatever computed it: the gradient reaches the predictions only.
    Both methods call it for (p1, z2) and (p2, z1). BYOL adds the two (range [0, 8]), SimSiam takes
    their mean (range [-1, 1]).

    Args:
        predictions: [b, d], the predictor's output, any length of vector. float64 is computed in
            float64, everything else in float32.
        targets: [b, d], row for row of the same images: BYOL's target projection, SimSiam's
            projection of the other view. Without gradient.
        form: ``squared_distance`` in [0, 4] or ``negative_cosine`` in [-1, 1].

    Returns:
        Scalar, the mean over the local rows; its mean over replicas is the global loss. A zero
        vector counts as orthogonal to everything and gets no gradient.

    Raises:
        ValueError: an unknown form, or shapes that do not fit together.

    Example:
        >>> p, z = tf.constant([[2.0, 0.0]]), tf.constant([[0.0, 5.0]])
        >>> float(cosine_regression(p, z, form="squared_distance"))
        2.0
        >>> float(cosine_regression(p, p, form="negative_cosine"))
        -1.0
    """
    check_option(form, "form", FORMS)
    predictions = float_tensor(predictions, "predictions", rank=2)
    targets = tf.stop_gradient(float_tensor(targets, "targets", rank=2))
    check_same_shape(predictions, targets, "predictions and targets")
    cosine = tf.reduce_mean(tf.reduce_sum(unit_rows(predictions) * unit_rows(targets), axis=1))
    return 2 - 2 * cosine if form == "squared_distance" else -cosine

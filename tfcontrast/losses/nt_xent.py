"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
Representations (2020), arXiv:2002.05709, equation 1. The idea: among all other views in the batch,
pick out the one that shows the same image.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import check_positive
from tfcontrast.losses.masked import masked_log_sum_exp
from tfcontrast.losses.tiled_self_softmax import one_shift_serves, tiled_self_softmax
from tfcontrast.losses.tiled_softmax import Exclusion, in_tiles, tiled_softmax
from tfcontrast.losses.view_pairs import UnitViews, unit_views, view_pairs


def nt_xent(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    temperature: float = 0.1,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Cross entropy of finding an image's other view among all views of the batch.

    For anchor i with positive p(i), cosine similarities s and the 2B views of the batch:

        l_i = -s_ip / t + log sum_{k != i} exp(s_ik / t) = log sum_{k != i} exp((s_ik - s_ip) / t)

    The sum has 2B - 1 terms: the positive and, as negatives, both views of all other images. The
    loss is the mean of l_i over the anchors, in both directions. Vectors are L2-normalised here.
    Gradients reach both sides of every pair.

    From ``tiled_softmax.TILED_LOGITS`` pairs on the matrix of cosines is never held: the loss is
    computed tile by tile and is the same to rounding. It then has no gradient of its gradient.

    Known values: log(2B - 1) when all embeddings coincide; about log(2B - 1) + 1 / (2 d t^2) for
    random directions; 0 for a batch of one image, which has no negatives.

    Args:
        z1: [b, d] projections of the first views. float64 is computed in float64, everything else
            in float32.
        z2: [b, d] projections of the second views, row for row of the same images.
        temperature: t > 0, what the cosines are divided by. The paper uses 0.1 on ImageNet and 0.5
            on CIFAR-10.
        candidates: on several replicas, (all z1, all z2) of the global batch, each [B, d]; None on
            one replica.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar, the mean over the 2b local anchors. Its mean over replicas is the loss of the global
        batch.

    Raises:
        ValueError: temperature not above 0, shapes that do not fit together, or rows that are not
            floating point.

    Example:
        >>> z = tf.ones([4, 8])
        >>> round(float(nt_xent(z, z)), 4)  # all alike: log 7
        1.9459

    Differs from the reference code: SimCLR's repository adds the two directions, which is twice
    this value. It masks an anchor by subtracting 1e9, here the column is left out. A zero vector
    gets no gradient.
    """
    check_positive(temperature, "temperature")
    views = unit_views(z1, z2, candidates, first_row)
    if in_tiles(views.anchors, views.pool):
        return _in_tiles(views, temperature)
    pairs = view_pairs(z1, z2, candidates, first_row)
    # With the positive inside the sum its own term is exactly 1, also at temperature 0.001.
    excess = (pairs.cosines - pairs.positives[:, None]) / temperature  # [2b, 2B]
    return tf.reduce_mean(masked_log_sum_exp(excess, pairs.others))


def _in_tiles(views: UnitViews, temperature: float) -> tf.Tensor:
    """The same mean, without the matrix of cosines."""
    partners = tf.gather(views.pool, views.partner)
    positives = tf.reduce_sum(views.anchors * partners, axis=1) / temperature
    if views.pool is views.anchors and one_shift_serves(temperature):
        log_sum_exp = tiled_self_softmax(views.anchors, temperature=temperature)
    else:
        exclusion = Exclusion(own=views.own)
        queries = views.anchors / temperature
        log_sum_exp = tiled_softmax(queries, views.pool, exclusion=exclusion).log_sum_exp
    return tf.reduce_mean(log_sum_exp - positives)

"""NT-Logistic: SimCLR's comparison loss that judges every pair on its own.

Chen et al. (2020), arXiv:2002.05709, table 2 and table 4. The idea: a logistic classifier "same
image or not" on each pair's similarity. Without the softmax's competition, easy and hard negatives
weigh alike; mining mends part of that.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import check_option, check_positive
from tfcontrast.losses.masked import masked_mean
from tfcontrast.losses.semi_hard import MININGS, semi_hard_negatives
from tfcontrast.losses.view_pairs import view_pairs

REDUCTIONS = ("mean", "sum")


def nt_logistic(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    temperature: float = 0.1,
    mining: str = "none",
    margin: float = 0.5,
    negatives: str = "mean",
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Logistic loss of each anchor's positive pair and of its negative pairs.

    With cosine similarities s, and softplus(x) = log(1 + exp(x)) = -log sigmoid(-x):

        l_i = softplus(-s_ip / t) + mean_n softplus(s_in / t)

    The mean runs over the 2B - 2 negatives (both views of all other images); with
    ``mining="semi_hard"`` the second term is the one closest negative inside (s_ip - margin, s_ip),
    or nothing when there is none. The loss is the mean of l_i over the anchors. At zero similarity
    it is 2 log 2. A batch of one image has only the positive term.

    Args:
        z1: [b, d] projections of the first views. float64 is computed in float64, everything else
            in float32.
        z2: [b, d] projections of the second views, row for row of the same images.
        temperature: t > 0, what the cosines are divided by.
        mining: ``none`` uses all negatives, ``semi_hard`` one per anchor.
        margin: width of the semi-hard band in units of cosine; used by ``semi_hard`` only.
        negatives: ``mean`` or ``sum`` over an anchor's negatives; the paper does not say which. No
            effect on one mined one.
        candidates: on several replicas, (all z1, all z2) of the global batch, each [B, d]; None on
            one replica.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar, the mean over the 2b local anchors.

    Raises:
        ValueError: temperature or margin not above 0, an unknown word, or shapes that do not fit
            together.

    Example:
        >>> z = tf.zeros([4, 8])
        >>> round(float(nt_logistic(z, z)), 4)  # 2 log 2
        1.3863

    Differs from the reference code: none was published. The paper gives the objective of one pair;
    the reduction over negatives and what an anchor without a semi-hard negative contributes are
    choices of this package.
    """
    check_positive(temperature, "temperature")
    check_positive(margin, "margin")
    check_option(mining, "mining", MININGS)
    check_option(negatives, "negatives", REDUCTIONS)
    pairs = view_pairs(z1, z2, candidates, first_row)
    attract = tf.math.softplus(-pairs.positives / temperature)  # [2b]
    if mining == "semi_hard":
        closest, found = semi_hard_negatives(pairs, margin)
        repel = tf.where(found, tf.math.softplus(closest / temperature), tf.zeros_like(closest))
    else:
        repel = masked_mean(tf.math.softplus(pairs.cosines / temperature), pairs.negatives)
        if negatives == "sum":
            repel *= tf.reduce_sum(tf.cast(pairs.negatives, repel.dtype), axis=1)
    return tf.reduce_mean(attract + repel)

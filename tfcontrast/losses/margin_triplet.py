"""The margin (triplet) loss that SimCLR compares itself with.

Chen et al. (2020), arXiv:2002.05709, table 2 and table 4. The idea: the other view must be more
similar than any other image by a margin; pairs that already satisfy it are left alone.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import check_option, check_positive
from tfcontrast.losses.masked import masked_mean
from tfcontrast.losses.semi_hard import MININGS, semi_hard_negatives
from tfcontrast.losses.view_pairs import view_pairs


def margin_triplet(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    margin: float = 0.5,
    mining: str = "none",
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Hinge of every (anchor, other view, other image) triplet on cosine similarities.

    With cosine similarities s, positive p and negative n of anchor i:

        l_i = mean_n max(s_in - s_ip + margin, 0)

    The mean runs over the 2B - 2 negatives (both views of all other images), satisfied triplets
    included. With ``mining="semi_hard"`` l_i is the term of the one closest negative inside (s_ip -
    margin, s_ip), or 0 when there is none. The loss is the mean of l_i over the anchors; it equals
    the margin when all embeddings coincide (and 0 when mined, as nothing is strictly farther than
    the positive), and 0 for a batch of one image.

    Args:
        z1: [b, d] projections of the first views. float64 is computed in float64, everything else
            in float32.
        z2: [b, d] projections of the second views, row for row of the same images.
        margin: m > 0 in units of cosine. The paper tunes it and does not print the value.
        mining: ``none`` uses all negatives, ``semi_hard`` one per anchor.
        candidates: on several replicas, (all z1, all z2) of the global batch, each [B, d]; None on
            one replica.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar, the mean over the 2b local anchors.

    Raises:
        ValueError: margin not above 0, an unknown mining, or shapes that do not fit together.

    Example:
        >>> z = tf.ones([4, 8])
        >>> round(float(margin_triplet(z, z, margin=0.25)), 4)
        0.25

    Differs from the reference code: none was published. TensorFlow Addons' triplet loss falls back
    to the easiest negative when no semi-hard one exists; here such an anchor contributes 0 and
    counts in the mean.
    """
    check_positive(margin, "margin")
    check_option(mining, "mining", MININGS)
    pairs = view_pairs(z1, z2, candidates, first_row)
    if mining == "semi_hard":
        closest, found = semi_hard_negatives(pairs, margin)
        hinge = tf.nn.relu(closest - pairs.positives + margin)
        return tf.reduce_mean(tf.where(found, hinge, tf.zeros_like(hinge)))
    hinges = tf.nn.relu(pairs.cosines - pairs.positives[:, None] + margin)  # [2b, 2B]
    return tf.reduce_mean(masked_mean(hinges, pairs.negatives))

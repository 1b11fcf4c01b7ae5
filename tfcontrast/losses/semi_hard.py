"""Semi-hard negative mining.

Schroff, Kalenichenko, Philbin: FaceNet (2015), arXiv:1503.03832, section 3.2.
The hardest negatives are often wrong labels or views of the same thing, and training on them alone
can collapse the embedding. Semi-hard ones are harder than most and still on the right side of the
positive.
"""

import tensorflow as tf

from tfcontrast.losses.view_pairs import ViewPairs

MININGS = ("none", "semi_hard")


def semi_hard_negatives(pairs: ViewPairs, margin: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Picks each anchor's closest negative among those a little farther than its positive.

        n*(i) = argmax { s_in :  s_ip - margin < s_in < s_ip }

    Both bounds are strict, so what is picked always violates the margin and never outranks the
    positive. Several negatives at the same maximum share the gradient.

    Args:
        pairs: cosines of the anchors, [2b, 2B], and their masks.
        margin: width of the band below the positive, in units of cosine.

    Returns:
        The picked cosines [2b] (0 where there is none) and whether one was found, bool [2b].

    Example:
        >>> from tfcontrast.losses.view_pairs import view_pairs
        >>> z1 = tf.constant([[1.0, 0.0], [0.8, 0.6]])
        >>> closest, found = semi_hard_negatives(view_pairs(z1, z1), margin=0.5)
        >>> round(float(closest[0]), 4), bool(found[0])
        (0.8, True)
    """
    positives = pairs.positives[:, None]
    band = (pairs.cosines < positives) & (pairs.cosines > positives - margin)
    chosen = pairs.negatives & band
    found = tf.reduce_any(chosen, axis=1)
    below_all = tf.constant(-2, pairs.cosines.dtype)  # no cosine is this low
    closest = tf.reduce_max(tf.where(chosen, pairs.cosines, below_all), axis=1)
    return tf.where(found, closest, tf.zeros_like(closest)), found

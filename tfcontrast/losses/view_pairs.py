"""The geometry that all two-view losses share: anchors, their one positive, and their negatives.

With two views of B images there are 2B unit vectors. For an anchor, the other view of its image is
the positive, the 2B - 2 views of other images are negatives, and the anchor itself is excluded. On
several replicas each one holds the rows of its own b images and compares them with all 2B.
"""

from typing import NamedTuple

import tensorflow as tf

from tfcontrast.losses.arguments import check_block, check_same_shape, float_tensor
from tfcontrast.losses.unit_rows import unit_rows


class ViewPairs(NamedTuple):
    """Cosines of the local anchors with all candidates, and which candidate is what.

    Rows are the anchors: the first view of the b local images, then their second view. Columns are
    the candidates: the first view of all B images, then their second view.

    Attributes:
        cosines: [2b, 2B] in [-1, 1].
        positives: [2b], each anchor's cosine with the other view of its image.
        others: bool [2b, 2B], False at the anchor itself.
        negatives: bool [2b, 2B], False at the anchor itself and at its positive.
    """

    cosines: tf.Tensor
    positives: tf.Tensor
    others: tf.Tensor
    negatives: tf.Tensor


def view_pairs(
    z1: tf.Tensor,
    z2: tf.Tensor,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> ViewPairs:
    """Compares both views of the local images with both views of all images.

    Masks follow from row numbers alone. Two images whose embeddings coincide are still negatives of
    each other.

    Args:
        z1: [b, d] first views, any length of vector.
        z2: [b, d] second views; row i shows the same image as row i of z1.
        candidates: (all first views, all second views), each [B, d]; None when the local rows are
            the whole batch.
        first_row: row of ``candidates`` where local row 0 stands.

    Returns:
        The cosines and masks.

    Raises:
        ValueError: shapes that do not fit together, or rows that are not floating point.

    Example:
        >>> z = tf.eye(2)
        >>> view_pairs(z, z).cosines.numpy().tolist()[0]
        [1.0, 0.0, 1.0, 0.0]
        >>> view_pairs(z, z).negatives.numpy().tolist()[0]
        [False, True, False, True]
    """
    views = unit_views(z1, z2, candidates, first_row)
    cosines = tf.matmul(views.anchors, views.pool, transpose_b=True)  # [2b, 2B]
    columns = tf.range(tf.shape(views.pool)[0])
    is_self = views.own[:, None] == columns
    is_positive = views.partner[:, None] == columns
    positives = tf.reduce_sum(tf.where(is_positive, cosines, tf.zeros_like(cosines)), axis=1)
    return ViewPairs(cosines, positives, ~is_self, ~(is_self | is_positive))


class UnitViews(NamedTuple):
    """Anchors, candidates, and where each anchor and its partner stand among the candidates.

    Attributes:
        anchors: [2b, d] unit rows: the first views of the b local images, then their second views.
        pool: [2B, d] unit rows: the first views of all B images, then their second views.
        own: int32 [2b], the row of ``pool`` that is the anchor.
        partner: int32 [2b], the row of ``pool`` that is the other view of its image.
    """

    anchors: tf.Tensor
    pool: tf.Tensor
    own: tf.Tensor
    partner: tf.Tensor


def unit_views(
    z1: tf.Tensor,
    z2: tf.Tensor,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> UnitViews:
    """The rows that ``view_pairs`` compares, without comparing them; its arguments.

    Args:
        z1: [b, d].
        z2: [b, d].
        candidates: (all first views, all second views), each [B, d], or None.
        first_row: row of ``candidates`` where local row 0 stands.

    Returns:
        The unit rows and their places. Without candidates ``pool`` is ``anchors``.

    Raises:
        ValueError: as ``view_pairs``.

    Example:
        >>> unit_views(tf.eye(2), tf.eye(2)).partner.numpy().tolist()
        [2, 3, 0, 1]
    """
    z1, z2 = float_tensor(z1, "z1", rank=2), float_tensor(z2, "z2", rank=2)
    check_same_shape(z1, z2, "z1 and z2")
    anchors = tf.concat([unit_rows(z1), unit_rows(z2)], axis=0)  # [2b, d]
    check_block(z1, None if candidates is None else candidates[0], first_row)
    if candidates is None:
        pool = anchors  # [2B, d]
    else:
        all_z1 = float_tensor(candidates[0], "candidates[0]", rank=2)
        all_z2 = float_tensor(candidates[1], "candidates[1]", rank=2)
        check_same_shape(all_z1, all_z2, "the two candidates")
        pool = tf.concat([unit_rows(all_z1), unit_rows(all_z2)], axis=0)
    half = tf.shape(pool)[0] // 2
    rows = tf.cast(first_row, tf.int32) + tf.range(tf.shape(z1)[0])
    other = rows + half
    return UnitViews(
        anchors, pool, tf.concat([rows, other], axis=0), tf.concat([other, rows], axis=0)
    )

"""SupCon, the supervised contrastive loss.

Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan: Supervised Contrastive
Learning (2020), arXiv:2004.11362, equations 2 (out) and 3 (in). The idea: every view of every image
of the same class is a positive.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import (
    check_block,
    check_option,
    check_positive,
    check_same_shape,
    float_tensor,
)
from tfcontrast.losses.masked import masked_log_sum_exp, masked_mean
from tfcontrast.losses.tiled_softmax import in_tiles
from tfcontrast.losses.tiled_supcon import LabelledRows, class_numbers, tiled_supcon
from tfcontrast.losses.unit_rows import unit_rows

VARIANTS = ("out", "in")
DENOMINATORS = ("all", "one_positive", "only_negatives")
ANCHORS = ("all", "first")
SCALES = ("none", "temperature", "base")
UNLABELLED = -1
_BASE_TEMPERATURE = 0.07


def supcon(
    embeddings: tf.Tensor,
    labels: tf.Tensor,
    *,
    temperature: float = 0.1,
    variant: str = "out",
    denominator: str = "all",
    positives_cap: int | None = None,
    anchors: str = "all",
    scale: str = "none",
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Cross entropy of finding the views of the same class among all views of the batch.

    For anchor i, cosine similarities s, temperature t, its positives P (same class, or the same
    image, not i itself) and its negatives N (all other images of other classes):

        out:  l_i = -mean_{p in P} log( exp(s_ip / t) / D_ip )
        in:   l_i = -log mean_{p in P} ( exp(s_ip / t) / D_ip )

    D_ip is the sum of exp(s_ik / t) over P and N (``all``), over p and N (``one_positive``) or over
    N (``only_negatives``).

    From ``tiled_softmax.TILED_LOGITS`` logits on they are computed in tiles, equal to rounding, and
    have no gradient of the gradient. ``one_positive`` (a sum over positives of what a first sum
    gives) and ``positives_cap`` (a rank within the row) are not: they always hold all logits.

    The loss is the mean of l_i over all local anchors. Vectors are L2-normalised here; gradients
    reach both sides of every pair. in <= out, and with unique labels and two views both are
    NT-Xent.

    An anchor without positives (one view, and no other image of its class) contributes 0 and counts
    in the mean. With ``only_negatives`` an anchor without negatives has D = 0 and contributes 0 as
    well. The label -1 means unlabelled: such an image's positives are its own other views only, and
    it is a negative of all other images.

    Args:
        embeddings: [b, V, d], V >= 1 views of b images. float64 is computed in float64, everything
            else in float32.
        labels: [b], int32 or int64; -1 for an unlabelled image.
        temperature: t > 0, what the cosines are divided by.
        variant: ``out`` (mean of logarithms, the one that works best) or ``in`` (logarithm of the
            mean).
        denominator: which candidates share the probability: ``all``, ``one_positive`` or
            ``only_negatives``.
        positives_cap: at most this many views of *other* images are positives of an anchor:
            ``positives_cap // V`` images of its class, those with the lowest global rows, with all
            their views. Its own other views always stay. Positives above the cap leave the
            denominator too and do not become negatives. None: no cap.
        anchors: ``all`` views, or only the ``first`` one of each image (all views stay candidates).
        scale: multiplies the loss by 1 (``none``), t (``temperature``) or t / 0.07 (``base``).
        candidates: on several replicas, (all embeddings [B, V, d], all labels [B]); None on one
            replica.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.

    Returns:
        Scalar, the mean over the local anchors. Its mean over replicas is the loss of the global
        batch.

    Raises:
        ValueError: an unknown word, a temperature not above 0, a negative cap, labels that are not
            integers, or shapes that do not fit together.

    Example:
        >>> z = tf.ones([4, 2, 8])
        >>> round(float(supcon(z, tf.constant([0, 0, 1, 1]))), 4)  # all alike: log 7
        1.9459

    Differs from the reference code: the authors' TensorFlow code multiplies by t
    (``scale="temperature"``), their PyTorch code by t / 0.07 (``scale="base"``); the paper does
    neither. Both take the row maximum with the anchor itself in it, which underflows at temperature
    0.01; here the maximum is over the columns that count.
    """
    check_positive(temperature, "temperature")
    check_option(variant, "variant", VARIANTS)
    check_option(denominator, "denominator", DENOMINATORS)
    check_option(anchors, "anchors", ANCHORS)
    check_option(scale, "scale", SCALES)
    if positives_cap is not None and positives_cap < 0:
        raise ValueError(f"positives_cap must not be negative. Received: {positives_cap}")
    embeddings, labels = _examples(embeddings, labels, "")
    all_embeddings, all_labels = embeddings, labels
    if candidates is not None:
        all_embeddings, all_labels = _examples(*candidates, "candidates' ")
    check_block(embeddings, None if candidates is None else all_embeddings, first_row)

    rows, columns = _flat(unit_rows(embeddings)), _flat(unit_rows(all_embeddings))
    if candidates is None:
        columns = rows
    if anchors == "first":
        rows = _flat(unit_rows(embeddings[:, :1]))
    if in_tiles(rows, columns) and denominator != "one_positive" and positives_cap is None:
        shape = (labels.shape[0], all_embeddings.shape[1])
        batch = _labelled(rows, columns, all_labels, shape, first_row)
        losses = tiled_supcon(batch, temperature=temperature, variant=variant, among=denominator)
    else:
        positive, negative = _masks(
            labels, all_labels, all_embeddings.shape[1], anchors, positives_cap, first_row
        )
        logits = tf.matmul(rows, columns, transpose_b=True) / temperature  # [anchors, B V]
        log_probs = _log_probabilities(logits, positive, negative, denominator)
        if variant == "out":
            losses = -masked_mean(log_probs, positive)
        else:
            count = tf.reduce_sum(tf.cast(positive, logits.dtype), axis=1)
            losses = tf.math.log(tf.maximum(count, 1)) - masked_log_sum_exp(log_probs, positive)
    factor = {"none": 1.0, "temperature": temperature, "base": temperature / _BASE_TEMPERATURE}
    return tf.reduce_mean(losses) * factor[scale]


def _examples(embeddings: tf.Tensor, labels: tf.Tensor, whose: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Checked embeddings [n, V, d] in the loss's precision and labels [n] as int64."""
    embeddings = float_tensor(embeddings, f"{whose}embeddings", rank=3)
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer:
        raise ValueError(f"{whose}labels must be integers. Received: dtype {labels.dtype.name}")
    check_same_shape(labels, embeddings[:, 0, 0], f"{whose}labels and the batch axis")
    return embeddings, tf.cast(labels, tf.int64)


def _flat(embeddings: tf.Tensor) -> tf.Tensor:
    """[n, V, d] -> [n V, d]; the views of one image stand together."""
    return tf.reshape(embeddings, [-1, embeddings.shape[2]])


def _labelled(
    rows: tf.Tensor,
    columns: tf.Tensor,
    all_labels: tf.Tensor,
    shape: tuple[int, int],
    first_row: int | tf.Tensor,
) -> LabelledRows:
    """The batch for ``tiled_supcon``.

    Args:
        rows: [anchors, d], all views of the local images or the first ones only.
        columns: [B V, d].
        all_labels: [B].
        shape: b, V.
        first_row: row of ``all_labels`` where local image 0 stands.

    Returns:
        The rows, their places among the columns and the columns' classes.
    """
    images, num_views = shape
    numbers = tf.cast(first_row, tf.int32) + tf.range(images)
    own = numbers[:, None] * num_views + tf.range(rows.shape[0] // images)
    classes = tf.repeat(class_numbers(all_labels, UNLABELLED), num_views)
    return LabelledRows(rows, columns, tf.reshape(own, [-1]), classes)


def _masks(
    labels: tf.Tensor,
    all_labels: tf.Tensor,
    num_views: int,
    anchors: str,
    positives_cap: int | None,
    first_row: int | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which columns are positives and which are negatives of each anchor.

    Built for images first, [b, B], then spread over their views. A same-class image above the cap
    is neither: it stays out of ``kept``, and it is no negative because its class is the anchor's.

    Returns:
        Two bool [anchors, B V], disjoint, both False at the anchor itself.
    """
    images = tf.range(tf.shape(all_labels)[0])
    own_image = (tf.cast(first_row, tf.int32) + tf.range(tf.shape(labels)[0]))[:, None] == images
    alike = (labels[:, None] == all_labels) & (labels[:, None] != UNLABELLED)
    same_class = alike & ~own_image  # [b, B]
    kept = same_class
    if positives_cap is not None:
        rank = tf.cumsum(tf.cast(same_class, tf.int32), axis=1)  # 1 for the lowest row of the class
        kept &= rank <= positives_cap // num_views

    views = num_views if anchors == "all" else 1
    column_view = tf.tile(tf.range(num_views), tf.shape(images))  # [B V]
    anchor_view = tf.tile(tf.range(views), tf.shape(labels))  # [anchors]

    def spread(image_mask: tf.Tensor) -> tf.Tensor:
        return tf.repeat(tf.repeat(image_mask, views, axis=0), num_views, axis=1)

    own_other_view = spread(own_image) & (anchor_view[:, None] != column_view)
    return spread(kept) | own_other_view, spread(~same_class & ~own_image)


def _log_probabilities(
    logits: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, denominator: str
) -> tf.Tensor:
    """log(exp(s_ip / t) / D_ip) for every column, of use at positives and finite everywhere."""
    if denominator == "all":
        return logits - masked_log_sum_exp(logits, positive | negative)[:, None]
    log_negatives = masked_log_sum_exp(logits, negative)[:, None]
    log_probs = logits - log_negatives
    if denominator == "one_positive":
        log_probs = tf.math.log_sigmoid(log_probs)  # log( e^p / (e^p + e^n) )
    return tf.where(tf.reduce_any(negative, axis=1, keepdims=True), log_probs, 0)

"""DeepCluster-v2: classify every crop into the k-means clusters of several clusterings.

Caron, Bojanowski, Joulin, Douze: Deep Clustering for Unsupervised Learning of Visual Features
(2018, arXiv:1807.05520), in the version of Caron et al.: SwAV (2020, arXiv:2006.09882). The loss of
the first version, one head and no temperature, is ``cross_entropy``.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses.arguments import check_positive, float_tensor
from tfcontrast.losses.stored_rows import row_numbers


def cluster_cross_entropy(
    scores: Sequence[tf.Tensor], targets: Sequence[tf.Tensor], *, temperature: float = 0.1
) -> tf.Tensor:
    """Mean over heads of the cross entropy between all crops and the image's cluster.

        L = mean_h mean_{v, i known in h} ( - log softmax(s_hvi / t)[target_hi] )

    Images without a cluster in a head (a negative target, -1 or -100) are left out of that head's
    mean; a head that knows no image of the batch contributes 0.

    Args:
        scores: one tensor [V b, K_h] per head, similarities of every crop and the head's
            centroids: all images of the first crop, then of the second, and so on. float64 is
            computed in float64, everything else in float32.
        targets: one tensor [b] per head, integers in [0, K_h), or negative for an unknown image.
        temperature: t > 0.

    Returns:
        Scalar in nats. Inside a step on several replicas the divisor is the mean count of known
        images over replicas, so that the mean of the values is the loss of the global batch.

    Raises:
        ValueError: temperature not above 0, no head, unequal numbers of heads, rows that are not a
            whole number of crops, or targets that are not integers.

    Example:
        >>> scores, targets = [tf.zeros([6, 5])] * 2, [tf.constant([0, 4, -1])] * 2
        >>> round(float(cluster_cross_entropy(scores, targets)), 4)  # log 5
        1.6094
    """
    check_positive(temperature, "temperature")
    if not scores or len(scores) != len(targets):
        raise ValueError(
            "scores and targets must be of the same heads, one or more."
            f" Received: {len(scores)} scores and {len(targets)} targets"
        )
    heads = [
        _known_losses(logits, numbers, temperature, head)
        for head, (logits, numbers) in enumerate(zip(scores, targets, strict=True))
    ]
    totals = tf.stack([total for total, _ in heads])
    counts = distribute.all_sum(tf.stack([count for _, count in heads]))
    return tf.reduce_mean(tf.math.divide_no_nan(totals, counts / distribute.num_replicas()))


def _known_losses(
    scores: tf.Tensor, targets: tf.Tensor, temperature: float, head: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """One head's sum of cross entropies over the crops of known images, and their number."""
    logits = float_tensor(scores, f"scores of head {head}", rank=2) / temperature
    targets = row_numbers(targets, f"targets of head {head}", rank=1)
    rows, images = logits.shape[0], targets.shape[0]
    if None not in (rows, images) and rows % images:
        raise ValueError(
            f"head {head} must have every image in every crop."
            f" Received: {rows} rows of scores for {images} targets"
        )
    crops = tf.shape(logits)[0] // tf.shape(targets)[0]
    repeated = tf.tile(targets, [crops])
    known = repeated >= 0
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(repeated, 0), logits)
    total = tf.reduce_sum(tf.where(known, losses, tf.zeros_like(losses)))
    return total, tf.reduce_sum(tf.cast(known, logits.dtype))

"""What tells a healthy contrastive run from a collapsed or a trivial one; without gradients."""

import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses.arguments import check_block, check_positive, float_tensor
from tfcontrast.losses.masked import masked_log_sum_exp
from tfcontrast.losses.nt_xent import nt_xent as nt_xent_loss
from tfcontrast.losses.tiled_softmax import in_tiles
from tfcontrast.losses.tiled_statistics import tiled_statistics
from tfcontrast.losses.unit_rows import unit_rows
from tfcontrast.losses.view_pairs import UnitViews, unit_views, view_pairs

_EPSILON = 1e-5  # added to a channel's variance, as batch norm does
_NOTHING = 1e-6  # far below any R of one live channel


def contrastive_metrics(
    z1: tf.Tensor,
    z2: tf.Tensor,
    *,
    temperature: float = 0.1,
    candidates: tuple[tf.Tensor, tf.Tensor] | None = None,
    first_row: int | tf.Tensor = 0,
    nt_xent: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """How well, and how surely, first views find their second views.

    Accuracy and entropy look at the cross-view block only: each first view against the B second
    views, p_i = softmax_j of cos(z1_i, z2_j) / t.

        contrastive_accuracy      mean_i [ argmax_j p_ij = i ]
        contrastive_entropy       mean_i -sum_j p_ij log p_ij
        mutual_information_bound  log(2B - 1) - NT-Xent

    At the start expect an accuracy near 1 / B and an entropy of at most log B. An accuracy of 1
    within the first steps means that the task is trivial (a leak between views). The bound is
    InfoNCE's: at most log(2B - 1) nats, whatever the truth, and 0 when all embeddings coincide;
    negative values say that the encoder is worse than none.

    Args:
        z1: [b, d] projections of the first views.
        z2: [b, d] projections of the second views, row for row of the same images.
        temperature: t > 0.
        candidates: on several replicas, (all z1, all z2) of the global batch, each [B, d]; None on
            one replica.
        first_row: on several replicas, the row of ``candidates`` where local row 0 stands.
        nt_xent: ``nt_xent`` of the same arguments if it is known already. It spares the largest
            part of the work when the matrix of cosines is too large to be held.

    Returns:
        Scalars ``contrastive_accuracy`` in [0, 1], ``contrastive_entropy`` and
        ``mutual_information_bound`` in nats, each the mean over the local images.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> metrics = contrastive_metrics(tf.eye(4), tf.eye(4), temperature=0.5)
        >>> for name, value in metrics.items():
        ...     print(name, round(float(value), 3))
        contrastive_accuracy 1.0
        contrastive_entropy 0.918
        mutual_information_bound 1.351

    Differs from the reference code: SimCLR adds 1e-8 inside the logarithm of the entropy.
    """
    check_positive(temperature, "temperature")
    views = unit_views(z1, z2, candidates, first_row)
    if in_tiles(views.anchors, views.pool):
        if nt_xent is None:
            nt_xent = nt_xent_loss(
                z1, z2, temperature=temperature, candidates=candidates, first_row=first_row
            )
        return _in_tiles(views, tf.stop_gradient(nt_xent), temperature)
    pairs = view_pairs(z1, z2, candidates, first_row)
    logits = tf.stop_gradient(pairs.cosines) / temperature  # [2b, 2B]
    local, count = tf.shape(logits)[0] // 2, tf.shape(logits)[1] // 2

    cross = logits[:local, count:]  # [b, B], first views against all second views
    found = tf.argmax(cross, axis=1, output_type=tf.int32)
    own = tf.cast(first_row, tf.int32) + tf.range(local)
    log_probs = tf.nn.log_softmax(cross, axis=1)
    entropy = -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=1)

    positives = tf.stop_gradient(pairs.positives)[:, None] / temperature
    losses = masked_log_sum_exp(logits - positives, pairs.others)  # [2b]
    bound = tf.math.log(tf.cast(2 * count - 1, logits.dtype)) - losses
    return {
        "contrastive_accuracy": tf.reduce_mean(tf.cast(found == own, logits.dtype)),
        "contrastive_entropy": tf.reduce_mean(entropy),
        "mutual_information_bound": tf.reduce_mean(bound),
    }


def _in_tiles(views: UnitViews, nt_xent: tf.Tensor, temperature: float) -> dict[str, tf.Tensor]:
    """The same metrics, without the matrix of cosines."""
    local, count = views.anchors.shape[0] // 2, views.pool.shape[0] // 2
    queries = views.anchors[:local] / temperature
    rows = tiled_statistics(queries, views.pool[count:], views.own[:local])
    return {
        "contrastive_accuracy": tf.reduce_mean(tf.cast(rows.found, queries.dtype)),
        "contrastive_entropy": tf.reduce_mean(rows.entropy),
        "mutual_information_bound": tf.math.log(tf.cast(2 * count - 1, nt_xent.dtype)) - nt_xent,
    }


def feature_std(features: tf.Tensor) -> tf.Tensor:
    """The spread of unit vectors: mean over channels of the standard deviation over the batch.

        mean_c std_i ( x_ic / ||x_i|| )

    Directions spread evenly over the sphere give about 1 / sqrt(D); collapse to one point gives 0
    (Chen, He: SimSiam, 2020, arXiv:2011.10566, figure 2). It does not see collapse to a few
    dimensions.

    Args:
        features: [B, D], features or embeddings; the standard deviation divides by B. Inside a step
            on several replicas their rows count together.

    Returns:
        Scalar in [0, 1 / sqrt(D)], without gradient; exactly 0 for one row.

    Raises:
        ValueError: not a floating-point matrix.

    Example:
        >>> float(feature_std(tf.ones([4, 8])))
        0.0
        >>> round(float(feature_std(tf.constant([[1.0, 0.0], [-1.0, 0.0]]))), 4)
        0.5
    """
    rows = tf.stop_gradient(unit_rows(float_tensor(features, "features", rank=2)))
    replicas = distribute.num_replicas()
    mean = distribute.all_sum(tf.reduce_mean(rows, axis=0)) / replicas
    variance = distribute.all_sum(tf.reduce_mean(tf.square(rows - mean), axis=0)) / replicas
    return tf.reduce_mean(tf.sqrt(variance))


def effective_channels(embeddings: tf.Tensor, *, candidates: tf.Tensor | None = None) -> tf.Tensor:
    """How many channels say something of their own: D if none repeats another, 1 if all do.

        R = n^T n / B,   n = (z - mean) / sqrt(var + 1e-5)      per channel, over the batch
        (sum_i R_ii)^2 / sum_ij R_ij^2

    It is the participation ratio of the eigenvalues of the channels' correlation matrix, and sees
    what ``feature_std`` does not: embeddings that vary along few directions. B random rows of
    independent channels give about D B / (D + B), never more than B - 1.

    Args:
        embeddings: [b, D], not normalised; float64 is computed in float64, everything else in
            float32.
        candidates: on several replicas, all embeddings of the global batch [B, D]; None on one.

    Returns:
        Scalar from 1 to D, without gradient, the same on every replica; 0 for a constant output.

    Raises:
        ValueError: not floating-point matrices that fit together.

    Example:
        >>> z = tf.constant([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(effective_channels(z)), 3)
        2.0
        >>> round(float(effective_channels(tf.stack([z[:, 0]] * 3, axis=1))), 3)
        1.0
    """
    mine = tf.stop_gradient(float_tensor(embeddings, "embeddings", rank=2))
    everyone = mine
    if candidates is not None:
        everyone = tf.stop_gradient(float_tensor(candidates, "candidates", rank=2))
    check_block(mine, everyone, 0)
    mean = tf.reduce_mean(everyone, axis=0)
    variance = tf.reduce_mean(tf.square(everyone - mean), axis=0)
    factor = tf.math.rsqrt(variance + _EPSILON)
    count = tf.cast(tf.shape(everyone)[0], mine.dtype)
    # The squares of n n^T [B, B] add up to those of n^T n, and replicas share its rows.
    products = tf.matmul((mine - mean) * factor, (everyone - mean) * factor, transpose_b=True)
    squares = distribute.all_sum(tf.reduce_sum(tf.square(products / count)))
    return tf.square(tf.reduce_sum(variance * tf.square(factor))) / (squares + _NOTHING)

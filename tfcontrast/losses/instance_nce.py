"""InstDisc: every image is its own class, and its class weight is its remembered feature.

Wu, Xiong, Yu, Lin: Unsupervised Feature Learning via Non-Parametric Instance-level Discrimination
(2018, arXiv:1805.01978). With a unit feature v and the rows f_1 ... f_n of the memory bank, image j
has the score v . f_j / t. The bank is data: gradients reach the features only.
"""

import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses.arguments import check_positive, float_tensor
from tfcontrast.losses.stored_rows import row_numbers, stored_rows
from tfcontrast.losses.tiled_softmax import in_tiles, tiled_softmax
from tfcontrast.losses.unit_rows import unit_rows

_EPSILON = 1e-7  # inside both denominators, as in the authors' code


def full_softmax(
    features: tf.Tensor, bank: tf.Tensor, indices: tf.Tensor, *, temperature: float
) -> tf.Tensor:
    """Cross entropy of finding each image among all images of the data set.

        l_i = -log( exp(v . f_i / t) / sum_{j <= n} exp(v . f_j / t) )

    Known values: log n when all rows coincide; about log n + 1 / (2 d t^2) against random unit
    rows.

    Args:
        features: [b, d], L2-normalised here. float64 is computed in float64, everything else in
            float32.
        bank: [n, d] remembered features, used as stored. Without gradient.
        indices: [b] integers in [0, n): each image's row.
        temperature: t > 0; 0.1 on CIFAR-10.

    Returns:
        Scalar, the mean over the local images; its mean over replicas is the global loss.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> images = tf.constant([3, 5])
        >>> loss = full_softmax(tf.ones([2, 4]), tf.ones([8, 4]), images, temperature=0.1)
        >>> round(float(loss), 4)  # all alike: log 8
        2.0794
    """
    check_positive(temperature, "temperature")
    features, bank, indices = _batch(features, bank, indices)
    scaled = features / temperature
    if in_tiles(features, bank):
        own = tf.reduce_sum(scaled * tf.gather(bank, indices), axis=1)
        return tf.reduce_mean(tiled_softmax(scaled, bank, keys_learn=False).log_sum_exp - own)
    logits = tf.matmul(scaled, bank, transpose_b=True)  # [b, n]
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(indices, logits))


def sampled_softmax(
    features: tf.Tensor,
    bank: tf.Tensor,
    indices: tf.Tensor,
    negatives: tf.Tensor,
    *,
    temperature: float,
) -> tf.Tensor:
    """Cross entropy of finding each image among itself and m sampled images of the data set.

        l_i = -log( exp(v . f_i / t) / (exp(v . f_i / t) + sum_s exp(v . f_js / t)) )

    The authors' later variant of ``nce`` (m = 65536 on ImageNet): no normalizer to estimate.

    Args:
        features: [b, d], L2-normalised here.
        bank: [n, d] remembered features, used as stored. Without gradient.
        indices: [b] integers in [0, n): each image's row.
        negatives: [b, m] integers in [0, n): rows drawn for each image, with replacement.
        temperature: t > 0.

    Returns:
        Scalar, the mean over the local images; its mean over replicas is the global loss.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> rows = tf.ones([8, 4])
        >>> negatives = tf.constant([[1, 2, 3]])
        >>> loss = sampled_softmax(rows[:1], rows, tf.constant([0]), negatives, temperature=0.1)
        >>> round(float(loss), 4)  # all alike: log 4
        1.3863
    """
    logits = _sampled_logits(features, bank, indices, negatives, temperature)
    first = tf.zeros(tf.shape(logits)[:1], tf.int32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(first, logits))


def nce(
    features: tf.Tensor,
    bank: tf.Tensor,
    indices: tf.Tensor,
    negatives: tf.Tensor,
    *,
    temperature: float,
    log_normalizer: float | tf.Tensor,
    proximal_weight: float = 0.0,
) -> tf.Tensor:
    """Noise-contrastive estimation: tell each image's row from m rows drawn uniformly.

        P(j) = exp(v . f_j / t) / Z,    h(j) = P(j) / (P(j) + m / n)
        l_i  = -log h(i) - sum_{s <= m} log(1 - h(j_s)) + proximal_weight ||v - f_i||^2

    with 1e-7 added to the denominator of h(j) and of 1 - h(j) = (m / n) / (P(j) + m / n). Z is a
    constant, measured once by ``estimate_log_normalizer``: a Z that follows the batch breaks the
    estimate.

    Known values: (m + 1) log(m + 1) - m log m, which is about log(m + 1) + 1, when all scores are
    alike and Z fits them.

    Args:
        features: [b, d], L2-normalised here. float64 is computed in float64, everything else in
            float32.
        bank: [n, d] remembered features before this step's update, used as stored. Without
            gradient.
        indices: [b] integers in [0, n): each image's row.
        negatives: [b, m] integers in [0, n): rows drawn for each image, with replacement; the
            image's own row may be among them. The paper uses m = 4096.
        temperature: t > 0; 0.07 on ImageNet, 0.1 on CIFAR-10.
        log_normalizer: log Z.
        proximal_weight: the paper's lambda >= 0, which keeps a feature near its remembered value.

    Returns:
        Scalar, the mean over the local images; its mean over replicas is the global loss.

    Raises:
        ValueError: temperature not above 0, a negative weight, or shapes that do not fit together.

    Example:
        >>> rows, own = tf.ones([8, 4]) / 2, tf.constant([0])
        >>> noise = tf.constant([[1, 2, 3]])
        >>> z = estimate_log_normalizer(rows[:1], rows, own, noise, temperature=0.1)
        >>> loss = nce(rows[:1], rows, own, noise, temperature=0.1, log_normalizer=z)
        >>> round(float(loss), 4)  # 4 log 4 - 3 log 3
        2.2493

    Differs from the reference code: the authors' code has no proximal term (weight 0); the paper
    plots 0 to 50. Everything is computed in logarithms, so that no temperature overflows.
    """
    if not proximal_weight >= 0:
        raise ValueError(f"proximal_weight must not be negative. Received: {proximal_weight}")
    logits = _sampled_logits(features, bank, indices, negatives, temperature)
    is_number = not tf.is_tensor(log_normalizer)
    log_z = float(log_normalizer) if is_number else tf.cast(log_normalizer, logits.dtype)
    log_p = logits - log_z  # [b, 1 + m], the image itself first
    drawn = tf.cast(tf.shape(logits)[1] - 1, logits.dtype)
    noise = drawn / tf.cast(tf.shape(bank)[0], logits.dtype)
    excess = log_p - tf.math.log(noise + _EPSILON)
    rejected = tf.math.log_sigmoid(-excess[:, 1:]) - tf.math.log1p(_EPSILON / noise)
    losses = -tf.math.log_sigmoid(excess[:, 0]) - tf.reduce_sum(rejected, axis=1)
    if proximal_weight:
        unit, stored, numbers = _batch(features, bank, indices)
        moved = unit - tf.gather(stored, numbers)
        losses += proximal_weight * tf.reduce_sum(tf.square(moved), axis=1)
    return tf.reduce_mean(losses)


def estimate_log_normalizer(
    features: tf.Tensor,
    bank: tf.Tensor,
    indices: tf.Tensor,
    negatives: tf.Tensor,
    *,
    temperature: float,
) -> tf.Tensor:
    """Measures the logarithm of NCE's normalizer on one batch; call it once and keep the value.

        Z = n mean_{i, j} exp(v_i . f_j / t)

    The mean runs over the images of the batch and, for each, its own row and its m sampled rows.

    Args:
        features: [b, d], L2-normalised here.
        bank: [n, d] remembered features, used as stored.
        indices: [b] integers in [0, n).
        negatives: [b, m] integers in [0, n).
        temperature: t > 0.

    Returns:
        Scalar log Z without gradient. Inside a step on several replicas the images of all of them
        count, and all get the same value.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> rows = tf.zeros([8, 4])
        >>> own, noise = tf.constant([0]), tf.constant([[1, 2, 3]])
        >>> log_z = estimate_log_normalizer(rows[:1], rows, own, noise, temperature=0.1)
        >>> round(float(tf.exp(log_z)), 4)
        8.0
    """
    logits = tf.stop_gradient(_sampled_logits(features, bank, indices, negatives, temperature))
    # log sum exp over a vector with one entry per replica needs no maximum over replicas
    totals = distribute.gather(tf.reduce_logsumexp(logits)[None])
    per_row = tf.size(logits) * tf.size(totals)
    rows = tf.cast(tf.shape(bank)[0], logits.dtype)
    return tf.reduce_logsumexp(totals) + tf.math.log(rows / tf.cast(per_row, logits.dtype))


def _batch(
    features: tf.Tensor, bank: tf.Tensor, indices: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Checked unit features [b, d], constant bank [n, d] and row numbers [b]."""
    features = unit_rows(float_tensor(features, "features", rank=2))
    bank = stored_rows(bank, "bank", like=features)
    return features, bank, row_numbers(indices, "indices", rank=1, like=features)


def _sampled_logits(
    features: tf.Tensor,
    bank: tf.Tensor,
    indices: tf.Tensor,
    negatives: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Scores of each image with its own row and its sampled rows, divided by t, [b, 1 + m]."""
    check_positive(temperature, "temperature")
    features, bank, indices = _batch(features, bank, indices)
    features /= temperature  # here and not below: n scores per image are many
    negatives = row_numbers(negatives, "negatives", rank=2, like=features)
    rows = tf.concat([indices[:, None], negatives], axis=1)  # [b, 1 + m]
    sizes = (bank.shape[0], rows.shape[1], features.shape[1])
    if None not in sizes and sizes[0] <= sizes[1] * sizes[2]:
        # all n scores of an image take less memory than fetching its m rows of d numbers
        scores = tf.matmul(features, bank, transpose_b=True)
        return tf.gather(scores, rows, axis=1, batch_dims=1)
    return tf.einsum("bd,bmd->bm", features, tf.gather(bank, rows))

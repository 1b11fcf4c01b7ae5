"""DINO: the student must predict the centred, sharpened output of its own moving average.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin: Emerging Properties in Self-Supervised
Vision Transformers (2021, arXiv:2104.14294). Centring keeps one output from winning, sharpening
(the low teacher temperature) keeps the outputs from becoming uniform.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses.arguments import check_positive, float_tensor
from tfcontrast.losses.cross_view import cross_view_cross_entropy


def teacher_probabilities(
    teacher_logits: tf.Tensor, center: tf.Tensor, *, temperature: float | tf.Tensor
) -> tf.Tensor:
    """The teacher's distribution, softmax((t - c) / tau_t), without gradient.

    Args:
        teacher_logits: [n, K], one or several global crops. float64 is computed in float64,
            everything else in float32.
        center: [K], the moving average that ``update_center`` gives.
        temperature: tau_t > 0, a number, or a scalar tensor when it follows a schedule.

    Returns:
        [n, K], rows that sum to 1, without gradient.

    Raises:
        ValueError: temperature not above 0, or shapes that do not fit together.

    Example:
        >>> logits = tf.constant([[3.0, 7.0]])
        >>> teacher_probabilities(logits, logits[0], temperature=0.04).numpy().tolist()
        [[0.5, 0.5]]
    """
    logits, center = _logits_and_center(teacher_logits, center)
    if tf.is_tensor(temperature):
        temperature = tf.cast(temperature, logits.dtype)
    else:
        check_positive(temperature, "temperature")
    return tf.stop_gradient(tf.nn.softmax((logits - center) / temperature))


def dino_loss(
    student_logits: Sequence[tf.Tensor],
    probabilities: Sequence[tf.Tensor],
    *,
    temperature: float = 0.1,
) -> tf.Tensor:
    """Cross entropy between the teacher on each global crop and the student on every other crop.

        L = 1 / (2 (V - 1)) sum_{i < 2} sum_{v != i} mean_b ( - sum_k P_i log softmax(s_v / t)_k )

    Known values: near log K at the start; exactly log K for a student with constant logits.

    Args:
        student_logits: V tensors [b, K], one per crop, the two global crops first. float64 is
            computed in float64, everything else in float32.
        probabilities: 2 tensors [b, K], ``teacher_probabilities`` of the global crops. Without
            gradient.
        temperature: the student's t > 0.

    Returns:
        Scalar in nats, the mean over 2 (V - 1) pairs and the local images; its mean over replicas
        is the loss of the global batch.

    Raises:
        ValueError: temperature not above 0, too few crops, or unequal shapes.

    Example:
        >>> student, teacher = [tf.zeros([2, 8])] * 10, [tf.one_hot([1, 2], 8)] * 2
        >>> round(float(dino_loss(student, teacher)), 4)  # log 8
        2.0794
    """
    return cross_view_cross_entropy(student_logits, probabilities, temperature=temperature)


def update_center(
    center: tf.Tensor, teacher_logits: tf.Tensor, *, momentum: float = 0.9
) -> tf.Tensor:
    """The next center: a moving average of the teacher's raw logits.

        c <- m c + (1 - m) mean of t over both global crops and all replicas

    Call it after the loss of the step. A batch with a value that is not finite leaves the center as
    it is, on all replicas alike.

    Args:
        center: [K].
        teacher_logits: [n, K], all global crops of this replica.
        momentum: m in [0, 1].

    Returns:
        [K] in the type of ``center`` (float32 for half precision), the same on every replica,
        without gradient.

    Raises:
        ValueError: momentum outside of [0, 1], or shapes that do not fit together.

    Example:
        >>> update_center(tf.zeros([2]), tf.constant([[1.0, 4.0], [3.0, 0.0]])).numpy().round(4)
        array([0.2, 0.2], dtype=float32)
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1]. Received: {momentum}")
    center = float_tensor(center, "center", rank=1)
    logits, _ = _logits_and_center(teacher_logits, center)
    local = tf.cast(tf.stop_gradient(tf.reduce_mean(logits, axis=0)), center.dtype)
    mean = distribute.all_sum(local) / distribute.num_replicas()
    finite = tf.reduce_all(tf.math.is_finite(mean))
    return tf.where(finite, momentum * center + (1 - momentum) * mean, center)


def dino_metrics(
    student_logits: Sequence[tf.Tensor],
    probabilities: Sequence[tf.Tensor],
    *,
    temperature: float = 0.1,
) -> dict[str, tf.Tensor]:
    """What tells DINO's two collapses apart; the loss is the sum of the two numbers.

        teacher_entropy      mean over crops and images of - sum_k P log P
        teacher_student_kl   mean over pairs and images of sum_k P_i log(P_i / p_v)

    A uniform output (too little sharpening) has entropy log K and divergence 0; a constant one-hot
    output (too little centring) has entropy 0.

    Args:
        student_logits: as for ``dino_loss``.
        probabilities: as for ``dino_loss``.
        temperature: as for ``dino_loss``.

    Returns:
        Scalars ``teacher_entropy`` and ``teacher_student_kl`` in nats, without gradient, each the
        mean over the local images.

    Raises:
        ValueError: as ``dino_loss``.

    Example:
        >>> metrics = dino_metrics([tf.zeros([2, 8])] * 2, [tf.fill([2, 8], 1 / 8)] * 2)
        >>> {name: round(float(value), 4) for name, value in metrics.items()}
        {'teacher_entropy': 2.0794, 'teacher_student_kl': 0.0}
    """
    loss = tf.stop_gradient(dino_loss(student_logits, probabilities, temperature=temperature))
    crops = tf.concat([float_tensor(p, "probabilities", rank=2) for p in probabilities], axis=0)
    terms = tf.math.multiply_no_nan(tf.math.log(crops), crops)  # 0 log 0 = 0
    entropy = -tf.reduce_mean(tf.reduce_sum(tf.stop_gradient(terms), axis=1))
    return {"teacher_entropy": entropy, "teacher_student_kl": loss - entropy}


def _logits_and_center(teacher_logits: tf.Tensor, center: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Checked logits [n, K] and a center [K] of the same type."""
    logits = float_tensor(teacher_logits, "teacher_logits", rank=2)
    center = float_tensor(center, "center", rank=1)
    if not logits.shape[1:].is_compatible_with(center.shape):
        raise ValueError(
            "center must have one entry per column of teacher_logits."
            f" Received: shapes {center.shape} and {logits.shape}"
        )
    return logits, tf.cast(center, logits.dtype)

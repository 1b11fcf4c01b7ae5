"""Soft cross entropy between views, what SwAV and DINO have in common."""

from collections.abc import Sequence

import tensorflow as tf

from tfcontrast.losses.arguments import check_positive, check_same_shape, float_tensor


def cross_view_cross_entropy(
    logits: Sequence[tf.Tensor], targets: Sequence[tf.Tensor], *, temperature: float
) -> tf.Tensor:
    """Every view must predict the target distributions of all other views.

        L = 1 / (A (V - 1)) sum_{i < A} sum_{v < V, v != i} mean_b ( - sum_k q_i log p_v )

    with p_v = softmax(logits_v / t) and A target views, which are the first A of the V views: a
    view never predicts its own target, and views after the first A only predict.

    Args:
        logits: V >= 2 tensors [b, K], one per view.
        targets: A tensors [b, K], 1 <= A <= V: the distributions of views 0 ... A - 1. Constants
            here: without gradient.
        temperature: t > 0.

    Returns:
        Scalar in nats, the mean over A (V - 1) pairs and over the local images; its mean over
        replicas is the global loss.

    Raises:
        ValueError: temperature not above 0, too few views or targets, or unequal shapes.

    Example:
        >>> uniform = tf.fill([2, 4], 0.25)
        >>> loss = cross_view_cross_entropy([uniform] * 3, [uniform] * 2, temperature=0.1)
        >>> round(float(loss), 4)  # log 4
        1.3863
    """
    check_positive(temperature, "temperature")
    if len(logits) < 2 or not 1 <= len(targets) <= len(logits):
        raise ValueError(
            "two views or more are needed, and targets for one of them up to all of them."
            f" Received: {len(logits)} views and {len(targets)} targets"
        )
    views = [float_tensor(rows, f"view {v}", rank=2) for v, rows in enumerate(logits)]
    goals = [float_tensor(rows, f"target {i}", rank=2) for i, rows in enumerate(targets)]
    for rows in (*views[1:], *goals):
        check_same_shape(views[0], rows, "all views and targets")
    terms = []
    for v, view in enumerate(views):
        others = [tf.stop_gradient(goal) for i, goal in enumerate(goals) if i != v]
        if others:  # one log-softmax per view serves all its targets
            log_probs = tf.nn.log_softmax(view / temperature)
            terms.append(-tf.reduce_mean(tf.reduce_sum(tf.add_n(others) * log_probs, axis=1)))
    return tf.add_n(terms) / (len(goals) * (len(views) - 1))

"""SwAV: predict the cluster code of one view from another.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin: Unsupervised Learning of Visual Features by
Contrasting Cluster Assignments (2020, arXiv:2006.09882). Codes come from a balanced assignment of
the whole batch to the prototypes, found by a few Sinkhorn-Knopp iterations.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses.arguments import check_positive, float_tensor
from tfcontrast.losses.cross_view import cross_view_cross_entropy


def sinkhorn(scores: tf.Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> tf.Tensor:
    """Assigns the samples of the global batch softly and evenly to the prototypes.

    Starting from Q = exp(scores / epsilon), each iteration divides every prototype by its sum over
    all samples of all replicas, then every sample by its sum over the prototypes. The last step is
    the samples', so every row of the result is a distribution; every prototype gets its even share
    of the batch only in the limit.

    Everything happens in logarithms: no epsilon overflows, and a sample far from all prototypes
    keeps its code. Sums over replicas are taken from one logarithm per replica and prototype, which
    needs no maximum over replicas.

    Args:
        scores: [b, K] similarities of this replica's samples and the prototypes, cosines in SwAV.
            Rows of a queue may stand before them: the caller keeps the codes of the last rows. On
            several replicas each brings its own part of the queue, since every row counts. float64
            is computed in float64, everything else in float32.
        epsilon: > 0; smaller gives harder codes. 0.05 in the authors' code.
        iterations: at least 1; 3 in the authors' code.

    Returns:
        [b, K], rows that sum to 1, without gradient.

    Raises:
        ValueError: epsilon not above 0, no iteration, or scores that are not a matrix.

    Example:
        >>> sinkhorn(tf.zeros([3, 4])).numpy().round(4).tolist()[0]
        [0.25, 0.25, 0.25, 0.25]
    """
    check_positive(epsilon, "epsilon")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1. Received: {iterations}")
    logs = tf.stop_gradient(float_tensor(scores, "scores", rank=2)) / epsilon
    for _ in range(iterations):
        here = tf.reduce_logsumexp(logs, axis=0, keepdims=True)  # [1, K]
        logs -= tf.reduce_logsumexp(distribute.gather(here), axis=0, keepdims=True)
        logs = tf.nn.log_softmax(logs)
    return tf.exp(logs)


def swav_loss(
    scores: Sequence[tf.Tensor], codes: Sequence[tf.Tensor], *, temperature: float = 0.1
) -> tf.Tensor:
    """Cross entropy between each code and the prediction from every other crop of the image.

        L = 1 / (A (V - 1)) sum_{i < A} sum_{v != i} mean_b ( - sum_k q_i log softmax(s_v / t)_k )

    Known values: log K for constant scores; the gradient reaches the scores of every crop, and
    through them encoder and prototypes, but never the codes.

    Args:
        scores: V tensors [b, K], similarities of each crop and the prototypes; the first A are the
            full-resolution crops. float64 is computed in float64, everything else in float32.
        codes: A tensors [b, K], ``sinkhorn`` of the first A scores. Without gradient.
        temperature: t > 0.

    Returns:
        Scalar in nats, the mean over A (V - 1) pairs and the local images; its mean over replicas
        is the loss of the global batch.

    Raises:
        ValueError: temperature not above 0, too few crops or codes, or unequal shapes.

    Example:
        >>> scores = [tf.zeros([2, 8])] * 4
        >>> round(float(swav_loss(scores, [sinkhorn(s) for s in scores[:2]])), 4)  # log 8
        2.0794
    """
    return cross_view_cross_entropy(scores, codes, temperature=temperature)

"""Weighted k-nearest-neighbour classification on frozen features.

Wu, Xiong, Yu, Lin: Unsupervised Feature Learning via Non-Parametric Instance Discrimination
(2018), arXiv:1805.01978, section 3.4; the protocol of MoCo's and DINO's evaluations. Nothing is
trained, so the number is the encoder's own.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfcontrast.evaluate.top_k import top_k_accuracy

# Similarities held at once, queries in a chunk x bank: 20 MB of float32.
_CHUNK_FLOATS = 5_000_000


def weighted_knn(
    bank: npt.NDArray[Any],
    bank_labels: npt.NDArray[Any],
    queries: npt.NDArray[Any],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> npt.NDArray[np.float64]:
    """Lets the k most similar bank examples vote for their classes.

        score_c(x) = sum_{j in N_k(x)} exp( (cos(x, f_j) - max_j cos(x, f_j)) / T ) [ y_j = c ]

    Subtracting the maximum makes the nearest neighbour's vote 1, for any T; it changes neither the
    order nor the ratio of a query's scores. Both sides are L2-normalised. At equal similarity the
    bank's earlier row is the nearer one. The queries go through in chunks so that at most 5e6
    similarities exist at once.

    Args:
        bank: [N, D] features of the training examples.
        bank_labels: int [N], 0..C-1.
        queries: [Q, D] features to classify.
        num_classes: C.
        k: neighbours that vote; more than the bank holds means all of it.
        temperature: T > 0. 0.1 with k = 200 is CIFAR's convention, 0.07 with k = 20 ImageNet's.

    Returns:
        Scores [Q, C]; 0 for a class without a vote.

    Raises:
        ValueError: k below 1, T not above 0, labels out of range, or shapes that do not fit
            together.

    Example:
        >>> bank, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 0])
        >>> weighted_knn(bank, labels, np.array([[2.0, 0.1]]), num_classes=2, k=1).tolist()
        [[0.0, 1.0]]

    Differs from the reference code: none of the usual ones subtracts the maximum; theirs overflows
    in float32 below T = 0.0113.
    """
    bank, queries = np.asarray(bank, np.float32), np.asarray(queries, np.float32)
    bank_labels = np.asarray(bank_labels)
    _check(bank, bank_labels, queries, num_classes)
    if k < 1 or not temperature > 0:
        raise ValueError(
            f"k must be at least 1 and temperature above 0. Received: {k} and {temperature}"
        )
    k = min(k, len(bank))
    unit_bank = tf.math.l2_normalize(bank, axis=1, epsilon=1e-24)
    rows = max(1, _CHUNK_FLOATS // len(bank))
    scores = [
        _votes(unit_bank, bank_labels, queries[start : start + rows], num_classes, k, temperature)
        for start in range(0, len(queries), rows)
    ]
    return np.concatenate(scores)


def knn_accuracy(
    bank: npt.NDArray[Any],
    bank_labels: npt.NDArray[Any],
    queries: npt.NDArray[Any],
    query_labels: npt.NDArray[Any],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> dict[str, float]:
    """Top-1 and top-5 accuracy of the weighted kNN classifier.

    Of classes with equal scores the lowest ranks first. A class without a vote is not a guess, so
    with k below 5 the top-5 accuracy rests on fewer than five guesses, never on classes that
    happen to have low numbers.

    Args:
        bank: [N, D] features of the training examples.
        bank_labels: int [N], 0..C-1.
        queries: [Q, D] features of the test examples.
        query_labels: int [Q].
        num_classes: C.
        k: neighbours that vote.
        temperature: T > 0.

    Returns:
        ``knn_top1`` and ``knn_top5`` in [0, 1].

    Raises:
        ValueError: as ``weighted_knn``, or labels that do not match the queries.

    Example:
        >>> x, y = np.eye(3), np.arange(3)
        >>> knn_accuracy(x, y, x, y, num_classes=3, k=1)
        {'knn_top1': 1.0, 'knn_top5': 1.0}
    """
    scores = weighted_knn(
        bank, bank_labels, queries, num_classes=num_classes, k=k, temperature=temperature
    )
    guesses = np.where(scores > 0, scores, np.nan)
    return {f"knn_top{n}": top_k_accuracy(guesses, query_labels, n) for n in (1, 5)}


def _votes(
    unit_bank: tf.Tensor,
    bank_labels: npt.NDArray[Any],
    queries: npt.NDArray[np.float32],
    num_classes: int,
    k: int,
    temperature: float,
) -> npt.NDArray[np.float64]:
    """Scores [q, C] of one chunk of queries."""
    unit_queries = tf.math.l2_normalize(queries, axis=1, epsilon=1e-24)
    cosines = tf.matmul(unit_queries, unit_bank, transpose_b=True)  # [q, N]
    nearest, index = (part.numpy() for part in tf.math.top_k(cosines, k))
    weights = np.exp((nearest.astype(np.float64) - nearest[:, :1]) / temperature)
    cell = np.arange(len(queries))[:, None] * num_classes + bank_labels[index]
    votes = np.bincount(cell.ravel(), weights.ravel(), len(queries) * num_classes)
    return votes.reshape(len(queries), num_classes).astype(np.float64)


def _check(
    bank: npt.NDArray[Any], labels: npt.NDArray[Any], queries: npt.NDArray[Any], num_classes: int
) -> None:
    matrices = bank.ndim == queries.ndim == 2 and bank.size and queries.size
    if not matrices or bank.shape[1] != queries.shape[1] or labels.shape != bank.shape[:1]:
        raise ValueError(
            "bank must be [N, D], bank_labels [N] and queries [Q, D], not empty."
            f" Received: shapes {bank.shape}, {labels.shape} and {queries.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"bank_labels must be 0..{num_classes - 1}. Received: {labels.min()}..{labels.max()}"
        )

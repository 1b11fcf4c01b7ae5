"""Label-free measures of how embeddings fill their space, in float64 and in chunks.

Wang, Isola: Understanding Contrastive Representation Learning through Alignment and Uniformity on
the Hypersphere (2020), arXiv:2005.10242; Garrido, Balestriero, Najman, LeCun: RankMe (2023),
arXiv:2210.02885.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK_ROWS = 1024


def alignment(first: npt.NDArray[Any], second: npt.NDArray[Any], *, alpha: float = 2.0) -> float:
    """How far apart the two views of an image are.

        mean_i || u_i - v_i ||^alpha,        u, v = the unit vectors of both views

    Args:
        first: [N, D] embeddings of the first views; L2-normalised here, a zero vector stays zero.
        second: [N, D] embeddings of the second views, row for row of the same images.
        alpha: exponent; 2 gives mean(2 - 2 cos).

    Returns:
        A number in [0, 2^alpha]; 0 when the views coincide.

    Raises:
        ValueError: alpha not above 0, or not two matrices of one shape.

    Example:
        >>> alignment(np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]]))
        2.0
    """
    first, second = _matrix(first, "first"), _matrix(second, "second")
    if first.shape != second.shape or not alpha > 0:
        raise ValueError(
            "both views must have one shape, and alpha be above 0."
            f" Received: shapes {first.shape} and {second.shape}, alpha {alpha}"
        )
    total = 0.0
    for start in range(0, len(first), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        gap = np.sum((_unit(first[rows]) - _unit(second[rows])) ** 2, axis=1)
        total += float(np.sum(gap ** (alpha / 2)))
    return total / len(first)


def uniformity(embeddings: npt.NDArray[Any], *, t: float = 2.0) -> float:
    """How evenly the embeddings cover the sphere; lower is more even.

        log mean_{i < j} exp( -t || u_i - u_j ||^2 )

    Every pair counts once, no example is paired with itself. Collapse gives 0, and random
    directions in many dimensions approach -2t. The cost grows with N squared; 4096 examples are
    plenty.

    Args:
        embeddings: [N, D], N >= 2, of *different* images; L2-normalised here.
        t: sharpness of the Gaussian.

    Returns:
        A number in [-4t, 0].

    Raises:
        ValueError: t not above 0, fewer than two rows, or not a matrix.

    Example:
        >>> uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]]), t=2.0)  # one pair, squared distance 4
        -8.0
    """
    embeddings = _matrix(embeddings, "embeddings")
    if len(embeddings) < 2 or not t > 0:
        raise ValueError(
            f"uniformity needs two rows and t above 0. Received: {len(embeddings)} rows, t {t}"
        )
    unit = _unit(embeddings)
    total = 0.0
    for start in range(0, len(unit), _CHUNK_ROWS):
        block = unit[start : start + _CHUNK_ROWS]
        rest = unit[start:]  # pairs with earlier rows are counted in earlier chunks
        lengths = np.sum(block**2, axis=1)[:, None] + np.sum(rest**2, axis=1)
        squared = np.maximum(lengths - 2 * block @ rest.T, 0)
        total += float(np.sum(np.triu(np.exp(-t * squared), k=1)))
    pairs = len(unit) * (len(unit) - 1) / 2
    return float(np.log(total / pairs))


def effective_rank(features: npt.NDArray[Any], *, center: bool = False) -> float:
    """RankMe: how many directions the features really use.

        exp( -sum_k p_k log p_k ),        p_k = sigma_k / sum sigma + 1e-7

    with sigma the singular values of the feature matrix, not centred as in the paper. They come
    from the D x D Gram matrix, summed over chunks. Compare runs of one method with each other, not
    methods.

    Args:
        features: [N, D], N well above D.
        center: subtract the mean feature first (collapse to one point then has rank 1 only by
            rounding).

    Returns:
        A number from 1 to D (up to the 1e-7).

    Raises:
        ValueError: not a matrix, or all (centred) features are zero.

    Example:
        >>> round(effective_rank(np.eye(4)), 3)
        4.0
    """
    features = _matrix(features, "features")
    mean = features.mean(axis=0, dtype=np.float64) if center else np.float64(0)
    gram = np.zeros([features.shape[1]] * 2)
    for start in range(0, len(features), _CHUNK_ROWS):
        rows = features[start : start + _CHUNK_ROWS].astype(np.float64) - mean
        gram += rows.T @ rows
    sigma = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    if not sigma.sum() > 0:
        raise ValueError("features must not all be equal or zero. Received: only zeros")
    share = sigma / sigma.sum() + 1e-7
    return float(np.exp(-np.sum(share * np.log(share))))


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, 1e-12)


def _matrix(value: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    matrix = np.asarray(value)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be [N, D], not empty. Received: shape {matrix.shape}")
    return matrix

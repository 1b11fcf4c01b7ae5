"""Principal components of equal variance, the space in which DeepCluster clusters."""

from typing import Any

import numpy as np
import numpy.typing as npt

_ROWS = 8192  # at once
# Directions with less of the largest variance are rounding, and stay out.
_LEAST = 1e-9


def whiten(rows: npt.NDArray[Any], dim: int) -> npt.NDArray[np.float32]:
    """Projects rows onto their first principal components, each scaled to variance 1.

        y = diag(l_1^-1/2, ..., l_dim^-1/2) U' (x - mean),   covariance = U diag(l) U'

    This is DeepCluster's PCA with whitening (Caron et al., 2018, section 3.3: 256 components),
    before the rows are scaled to length 1. Variances divide by N. A component that has no variance
    but rounding's (dead or repeated features, or fewer rows than components) is 0 for every row.

    Args:
        rows: [N, D], finite. Memory: a few thousand rows at once beside input and output.
        dim: components that are kept; above D, all D are.

    Returns:
        float32 [N, min(dim, D)]: of mean 0, and covariance 1 or 0 on its diagonal, 0 off it.

    Raises:
        ValueError: rows that are not a finite matrix, or ``dim`` below 1.

    Example:
        >>> found = whiten(np.array([[0.0, 1.0], [4.0, 1.0]]), 2)
        >>> np.abs(found).round(3).tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
        raise ValueError(f"rows must be a finite matrix [N, D]. Received: shape {rows.shape}")
    if dim < 1:
        raise ValueError(f"dim must be at least 1. Received: {dim}")
    mean = np.mean(rows, axis=0, dtype=np.float64)
    parts = [slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)]
    covariance = np.zeros([rows.shape[1]] * 2)
    for part in parts:
        centred = rows[part] - mean
        covariance += centred.T @ centred / len(rows)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
    real = variances > _LEAST * max(variances[0], np.finfo(np.float64).tiny)
    scales = np.where(real, 1 / np.sqrt(np.where(real, variances, 1)), 0)
    found = np.empty([len(rows), len(scales)], np.float32)
    for part in parts:
        found[part] = (rows[part] - mean) @ (directions * scales)
    return found

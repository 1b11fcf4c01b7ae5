"""k-means of all rows at once, for methods that cluster between epochs.

Which options serve which method:

- DeepCluster-v2 (Caron et al., SwAV, 2020, appendix): ``spherical=True, iterations=10,
  empty="keep"``: unit rows, centroids of length 1, an empty cluster keeps its centroid.
- DeepCluster (Caron et al., 2018): ``spherical=False, iterations=20, empty="split"``: Euclidean
  distances, an empty cluster takes over half of a large one, as faiss does.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# Scores that are in memory at once: 128 MB of float32.
_SCORES = 2**25
# How far the halves of a split cluster are moved apart, as a share of each coordinate (faiss).
_SPLIT = 1 / 1024
# Keeps these draws apart from others that start from the run's seed.
_FIRST_ROWS, _SPLITS = 0x6B6D6E73, 0x73706C74

EMPTY = ("keep", "split")


class Clusters(NamedTuple):
    """What `kmeans` finds.

    Attributes:
        centroids: float32 [K, D]; of length 1 if spherical.
        assignments: int64 [N], the nearest centroid of every row.
        objectives: the mean distance of the rows to their centroids before each iteration and at
            the end: squared, or 1 - cosine if spherical.
    """

    centroids: npt.NDArray[np.float32]
    assignments: npt.NDArray[np.int64]
    objectives: tuple[float, ...]


def kmeans(
    rows: npt.NDArray[Any],
    count: int,
    *,
    iterations: int,
    seed: int,
    spherical: bool = False,
    empty: str = "keep",
) -> Clusters:
    """Lloyd's algorithm from random rows; the same rows and seed give the same clusters.

    Every iteration assigns each row to its nearest centroid and moves the centroids to the means of
    their rows. A last assignment goes with the centroids that are returned. Scores are computed in
    chunks by one matrix product each, sums in float64.

    Args:
        rows: [N, D], finite. They are taken as float32; spherical k-means scales them to length 1.
        count: number of clusters, K; at most N.
        iterations: at least 1.
        seed: of the first centroids, K different rows, and of what is split.
        spherical: compare directions: the largest cosine wins and centroids have length 1. Without
            it the least Euclidean distance does.
        empty: what becomes of a centroid without rows: ``keep`` leaves it where it is, ``split``
            puts it beside that of another cluster, drawn in proportion to its rows.

    Returns:
        Centroids, assignments and the objective's course. With ``split`` the objective may rise
        where a cluster was split; with ``keep`` it never does.

    Raises:
        ValueError: fewer rows than clusters, rows that are not a finite matrix, no iteration, or an
            unknown choice.

    Example:
        >>> found = kmeans(np.array([[0.0], [0.2], [9.0]]), 2, iterations=5, seed=0)
        >>> sorted(found.centroids.round(1).ravel().tolist())
        [0.1, 9.0]
    """
    rows = _checked(rows, count, iterations, empty)
    if spherical:
        rows = _unit(rows)
    first = np.random.default_rng([seed, _FIRST_ROWS]).choice(len(rows), count, replace=False)
    centroids, objectives = rows[np.sort(first)], []
    for iteration in range(iterations):
        assignments, objective = _assign(rows, centroids, spherical)
        objectives.append(objective)
        sizes = np.bincount(assignments, minlength=count)
        centroids = _means(rows, assignments, sizes, centroids)
        if empty == "split":
            draws = np.random.default_rng([seed, _SPLITS, iteration])
            centroids = _split(centroids, sizes, draws)
        if spherical:
            centroids = _unit(centroids)
    assignments, objective = _assign(rows, centroids, spherical)
    return Clusters(centroids, assignments, (*objectives, objective))


def _checked(
    rows: npt.NDArray[Any], count: int, iterations: int, empty: str
) -> npt.NDArray[np.float32]:
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"rows must be a finite matrix [N, D]. Received: shape {rows.shape}")
    if not 1 <= count <= len(rows):
        raise ValueError(
            f"count must be from 1 to the number of rows. Received: {count} and {len(rows)} rows"
        )
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1. Received: {iterations}")
    if empty not in EMPTY:
        raise ValueError(f"empty must be one of {', '.join(EMPTY)}. Received: {empty!r}")
    return rows


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)


def _assign(
    rows: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32], spherical: bool
) -> tuple[npt.NDArray[np.int64], float]:
    """The nearest centroid of every row, and the mean distance to it."""
    columns = tf.constant(np.ascontiguousarray(centroids.T))
    # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2): the largest score is the least distance.
    offset = 0.0 if spherical else 0.5 * tf.reduce_sum(tf.square(columns), axis=0)
    nearest, total = np.empty(len(rows), np.int64), 0.0
    step = max(1, _SCORES // len(centroids))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        scores = tf.matmul(tf.constant(part), columns) - offset
        nearest[start : start + step] = tf.argmax(scores, axis=1).numpy()
        best = np.sum(tf.reduce_max(scores, axis=1).numpy(), dtype=np.float64)
        if spherical:
            total += len(part) - float(best)
        else:
            total += float(np.sum(np.square(part, dtype=np.float64)) - 2 * best)
    return nearest, total / len(rows)


def _means(
    rows: npt.NDArray[np.float32],
    assignments: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    old: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Each cluster's mean; an empty one keeps its old centroid.

    Rows are added up in their order, so that the sums do not depend on threads.
    """
    filled = np.flatnonzero(sizes)
    order = np.argsort(assignments, kind="stable")
    starts = (np.cumsum(sizes) - sizes)[filled]
    sums = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
    means = old.copy()
    means[filled] = sums / sizes[filled, None]
    return means


def _split(
    centroids: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64], draws: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Puts every empty cluster's centroid beside that of a cluster with two rows or more."""
    centroids, sizes = centroids.copy(), sizes.copy()
    apart = 1 + _SPLIT * np.where(np.arange(centroids.shape[1]) % 2, -1, 1)
    for place in np.flatnonzero(sizes == 0):
        spare = np.maximum(sizes - 1, 0)
        large = draws.choice(len(sizes), p=spare / spare.sum())
        centroids[place] = centroids[large] * apart
        centroids[large] *= 2 - apart
        sizes[place] = sizes[large] // 2
        sizes[large] -= sizes[place]
    return centroids

"""How much two clusterings of the same examples have in common."""

from typing import Any

import numpy as np
import numpy.typing as npt


def normalized_mutual_information(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """The information that two clusterings share, whatever their clusters are called.

        NMI = 2 I(a; b) / (H(a) + H(b))

    DeepCluster's monitor (Caron et al., 2018, arXiv:1807.05520, section 4.1): between the clusters
    of two epochs it rises and levels off as the clusters settle; with the true labels it says how
    well clusters match classes.

    Args:
        first: whole numbers [N], each example's cluster.
        second: the same in the other clustering.

    Returns:
        A number in [0, 1]: 1 for the same partition, 0 for independent ones, and 1 when both have
        only one cluster.

    Raises:
        ValueError: not two vectors of one length, or an empty one.

    Example:
        >>> normalized_mutual_information(np.array([0, 0, 1]), np.array([5, 5, 2]))
        1.0
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            "both clusterings must be vectors of one length, 1 or more."
            f" Received: shapes {first.shape} and {second.shape}"
        )
    a = np.unique(first, return_inverse=True)[1].astype(np.int64)
    b = np.unique(second, return_inverse=True)[1].astype(np.int64)
    entropy_a, entropy_b = _entropy(a), _entropy(b)
    if entropy_a + entropy_b == 0:
        return 1.0
    joint = _entropy(a * (int(b.max()) + 1) + b)
    # The mutual information in entropies; rounding may leave it a hair outside of its range.
    shared = 2 * (entropy_a + entropy_b - joint) / (entropy_a + entropy_b)
    return float(np.clip(shared, 0.0, 1.0))


def _entropy(numbers: npt.NDArray[np.int64]) -> float:
    """Of the empirical distribution of whole numbers, in nats."""
    counts = np.unique(numbers, return_counts=True)[1]
    share = counts / len(numbers)
    return float(-np.sum(share * np.log(share)))

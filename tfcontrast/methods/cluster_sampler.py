"""DeepCluster's order of an epoch: every cluster equally often, however large it is."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Keeps these draws apart from others that start from the run's seed.
_DRAWS = 0x756E6966


def uniform_over_clusters(
    clusters: npt.NDArray[Any], count: int, *, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """Draws images such that all clusters with images are trained on alike.

    Each of the c clusters that are not empty gives N // c + 1 draws of its images: different ones
    where it has more of them than that, else with repetition. All draws are shuffled and cut
    (Caron et al., 2018, section 3.3, "trivial parametrization", as in the released code). Without
    it a cluster that holds most images makes the classifier, and then the features, ignore the
    others.

    Args:
        clusters: whole numbers [N], each image's cluster.
        count: draws that are kept, at most N.
        seed: the run's seed.
        epoch: the epoch's number.

    Returns:
        int64 [count], images' places: a function of the arguments alone.

    Raises:
        ValueError: more draws than images, or no image.

    Example:
        >>> drawn = uniform_over_clusters(np.array([0] * 9 + [7]), 10, seed=0, epoch=0)
        >>> int(sum(drawn == 9)) in (4, 5, 6)
        True
    """
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or not 1 <= count <= len(clusters):
        raise ValueError(
            f"count must be from 1 to the number of images. Received: {count} and clusters of "
            f"shape {clusters.shape}"
        )
    draws = np.random.default_rng([seed, _DRAWS, epoch])
    by_cluster = np.argsort(clusters, kind="stable")
    sizes = np.unique(clusters, return_counts=True)[1]
    each = len(clusters) // len(sizes) + 1
    drawn = [
        draws.choice(members, each, replace=len(members) <= each)
        for members in np.split(by_cluster, np.cumsum(sizes)[:-1])
    ]
    return draws.permutation(np.concatenate(drawn))[:count].astype(np.int64)

"""Top-k accuracy with a stated rule for ties."""

from typing import Any

import numpy as np
import numpy.typing as npt


def top_k_accuracy(scores: npt.NDArray[Any], labels: npt.NDArray[Any], k: int = 1) -> float:
    """The share of examples whose class is among the k with the highest scores.

    Of equal scores the lower class ranks first, so that a constant score counts as a prediction of
    class 0 and not as a hit. A score of NaN means that the class is not on offer: it is never a
    hit and ranks behind everything.

    Args:
        scores: [N, C], higher is more likely.
        labels: int [N]. A label outside 0..C-1 is a class that the scores do not know: always a
            miss.
        k: how many guesses count; from C on, every class that is on offer is a hit.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: k below 1, no examples, or shapes that do not fit together.

    Example:
        >>> top_k_accuracy(np.array([[0.1, 0.7, 0.2], [0.4, 0.3, 0.3]]), np.array([1, 2]))
        0.5
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if k < 1:
        raise ValueError(f"k must be at least 1. Received: {k}")
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or scores.size == 0:
        raise ValueError(
            "scores must be [N, C] and labels [N], not empty."
            f" Received: shapes {scores.shape} and {labels.shape}"
        )
    known = (labels >= 0) & (labels < scores.shape[1])
    column = np.where(known, labels, 0)[:, None]
    own = np.take_along_axis(scores, column, axis=1)  # [N, 1]
    earlier = np.arange(scores.shape[1]) < column
    rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    return float(np.mean(known & (rank < k) & ~np.isnan(own[:, 0])))

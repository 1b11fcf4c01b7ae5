"""Batch-norm statistics measured anew, as plain averages over batches.

An untrained network still carries the statistics it was built with (mean 0, variance 1). Compared
in inference mode with a trained one it would look worse than it is; with measured statistics the
comparison is fair. The same repairs a network whose moving averages lag behind its weights.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def reestimate_batch_norm(
    model_call: Callable[[Any], Any], layers: Sequence[Any], batches: Iterable[Any]
) -> int:
    """Sets moving means and variances to their average over some batches.

    A batch-norm layer moves its average by m <- momentum m + (1 - momentum) x. Started from m = 0,
    one call leaves (1 - momentum) x, which tells the batch's own statistic x; no layer has to be
    changed for it, and a ``model_call`` that is compiled already works as it is. Give batches of
    one size, since all weigh the same.

    A layer that no call reaches in training mode (unused, or frozen) keeps its statistics.

    Args:
        model_call: runs the network in training mode on one element of ``batches``, as
            ``lambda images: model(images, training=True)``. Its result is ignored.
        layers: the batch-norm layers, with ``moving_mean``, ``moving_variance`` and ``momentum``.
        batches: finite; what ``model_call`` takes.

    Returns:
        The number of batches.

    Raises:
        ValueError: no batches, or a layer whose momentum is not in [0, 1), so that it does not
            move. The statistics are then as before, as after any other failure.

    Example:
        >>> import keras
        >>> layer = keras.layers.BatchNormalization()
        >>> layer.build([None, 1])
        >>> batches = [np.array([[0.0], [2.0]]), np.array([[4.0], [8.0]])]
        >>> reestimate_batch_norm(lambda x: layer(x, training=True), [layer], batches)
        2
        >>> np.asarray(layer.moving_mean).round(3), np.asarray(layer.moving_variance).round(3)
        (array([3.5], dtype=float32), array([2.5], dtype=float32))
    """
    for layer in layers:
        if not 0 <= float(layer.momentum) < 1:
            raise ValueError(
                f"momentum of {layer.name} must be in [0, 1). Received: {layer.momentum}"
            )
    before = [_statistics(layer) for layer in layers]
    sums = [(np.zeros_like(mean), np.zeros_like(variance)) for mean, variance in before]
    count = 0
    try:
        for batch in batches:
            for layer, (mean, variance) in zip(layers, before, strict=True):
                _assign(layer, np.zeros_like(mean), np.zeros_like(variance))
            model_call(batch)
            count += 1
            for layer, (mean_sum, variance_sum) in zip(layers, sums, strict=True):
                mean, variance = _statistics(layer)
                mean_sum += mean / (1 - float(layer.momentum))
                variance_sum += variance / (1 - float(layer.momentum))
    finally:
        for layer, (mean, variance) in zip(layers, before, strict=True):
            _assign(layer, mean, variance)
    if count == 0:
        raise ValueError("statistics need at least one batch. Received: none")
    for layer, (mean_sum, variance_sum) in zip(layers, sums, strict=True):
        if mean_sum.any() or variance_sum.any():
            _assign(layer, mean_sum / count, variance_sum / count)
    return count


def _statistics(layer: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    return mean.astype(np.float64), variance.astype(np.float64)


def _assign(layer: Any, mean: npt.NDArray[Any], variance: npt.NDArray[Any]) -> None:
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)

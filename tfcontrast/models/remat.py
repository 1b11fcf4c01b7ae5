"""Layers whose activations are computed again on the way back instead of kept."""

from typing import Any

import tensorflow as tf

from tfcontrast.models.still_statistics import still_statistics


def rematerialized(layer: Any, inputs: tf.Tensor, **options: Any) -> tf.Tensor:
    """Runs a layer in training, and keeps nothing of it for the gradient but its inputs.

    The gradient runs it a second time, by its part of the network at a time, so that the peak of
    memory is that of one layer's activations and all layers' inputs (Chen et al., 2016,
    arXiv:1604.06174). The value and the gradient are those of ``layer(inputs)``; batch norm's
    moving statistics move once, in the first pass.

    Args:
        layer: repeats itself: what it draws must follow from its arguments. Its variables get their
            gradients.
        inputs: float.
        **options: more arguments; tensors among them get no gradient.

    Returns:
        ``layer(inputs, **options)``.
    """
    passes = 0

    @tf.recompute_grad
    def run(x: tf.Tensor) -> tf.Tensor:
        nonlocal passes
        passes += 1
        if passes == 1:
            return layer(x, **options)
        with still_statistics():
            return layer(x, **options)

    return run(inputs)

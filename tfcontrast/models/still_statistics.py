"""Passes in training mode that leave batch norm's moving statistics alone."""

import contextlib
from collections.abc import Iterator

import keras

from tfcontrast.models.batch_norm import BatchNorm


@contextlib.contextmanager
def still_statistics(*networks: keras.Layer) -> Iterator[None]:
    """Within it, a pass in training mode normalises by its batch and moves nothing.

    What an untrained network embeds is of use only by its batches' statistics, since it has no
    others; but a look at the data should not change the network. A function that is traced within
    it stays so.

    Args:
        *networks: built.
    """
    layers = [
        layer
        for network in networks
        for layer in network._flatten_layers()
        if isinstance(layer, BatchNorm)
    ]
    kept = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 1.0
        yield
    finally:
        for layer, momentum in zip(layers, kept, strict=True):
            layer.momentum = momentum

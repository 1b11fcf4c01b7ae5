"""Layers that were frozen before they were built."""

from collections.abc import Iterable

import keras


def settle_frozen(layers: Iterable[keras.Layer]) -> None:
    """Freezes all that the frozen ones of these layers hold; call it when they are built.

    Setting ``trainable`` reaches the layers that are there. Those that a frozen layer makes in its
    ``build`` would learn, and to say ``trainable = False`` a second time does nothing.

    Args:
        layers: built; whether they are frozen is what their own ``trainable`` says.
    """
    for layer in layers:
        if layer.trainable:
            continue
        for part in layer._flatten_layers():
            part.trainable = False
            for variable in part._trainable_variables:
                variable.trainable = False

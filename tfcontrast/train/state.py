"""Every variable of a run, by a stable name.

Keras's own object graph names a sub-layer in a list after whoever else holds it and leaves metrics
out, so the names are made here: the path of layers, with Keras's automatic counters (``dense_17``)
replaced by the place among equal siblings.
"""

import re
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tfcontrast.methods import Method


def _sibling_names(names: list[str]) -> list[str]:
    """Names without automatic counters, numbered where siblings would share one."""
    stems = [re.sub(r"(_\d+)+$", "", name) for name in names]
    return [
        stem if stems.count(stem) == 1 else f"{stem}_{stems[:place].count(stem)}"
        for place, stem in enumerate(stems)
    ]


def named_variables(layer: keras.Layer, prefix: str) -> Iterator[tuple[str, keras.Variable]]:
    """Walks a layer: its own variables first, then its sub-layers in order of creation.

    Args:
        layer: a built Keras layer or model.
        prefix: the name of ``layer`` itself.

    Yields:
        (name, variable) pairs; names are unique and do not depend on what else the process has
        built.
    """
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    for name, variable in zip(_sibling_names([v.name for v in own]), own, strict=True):
        yield f"{prefix}/{name}", variable
    children = list(layer._flatten_layers(include_self=False, recursive=False))
    for name, child in zip(_sibling_names([c.name for c in children]), children, strict=True):
        yield from named_variables(child, f"{prefix}/{name}")


def model_state(method: Method) -> dict[str, keras.Variable]:
    """The networks' variables: backbone, projector, probe and what else the method holds."""
    root = method.name
    return {name.removeprefix(f"{root}/"): v for name, v in named_variables(method, root)}


def as_backbone(arrays: dict[str, np.ndarray], encoder_name: str) -> dict[str, np.ndarray]:
    """A checkpoint's arrays with the network that is evaluated under the name ``backbone``.

    Args:
        arrays: name to array.
        encoder_name: ``Method.encoder_name``; the projector beside it is named alike
            (``target_backbone`` and ``target_projector``).
    """
    prefix = encoder_name.removesuffix("backbone")
    if not prefix or not any(name.startswith(f"{encoder_name}/") for name in arrays):
        return arrays
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith((f"{prefix}backbone/", f"{prefix}projector/"))
    }


def full_state(method: Method) -> dict[str, keras.Variable]:
    """What a resumed run needs: networks, optimizers (with the step) and running metrics."""
    state = model_state(method)
    for name in ("optimizer", "probe_optimizer"):
        optimizer = getattr(method, name, None)
        if optimizer is not None:
            state.update((f"{name}/{i:04d}", v) for i, v in enumerate(optimizer.variables))
    for metric in method.metrics:
        state.update((f"metrics/{metric.name}/{i}", v) for i, v in enumerate(metric.variables))
    return state


def values(state: dict[str, keras.Variable]) -> dict[str, np.ndarray]:
    """The state as NumPy arrays; under several workers every worker must call it."""
    return {name: tf.convert_to_tensor(variable.value).numpy() for name, variable in state.items()}

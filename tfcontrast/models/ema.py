"""Slow copies of networks: the key encoder of MoCo, the target of BYOL, the teacher of DINO.

Every official implementation averages what the optimizer trains and nothing else: the copy's batch
norm takes its own batches' statistics (MoCo, MoCo v3, BYOL, DINO, DenseCL). That is the default
here. Averaging the statistics too is what some ports do (for BYOL it has been seen to collapse);
copying them suits a copy that never sees a batch in training mode.
"""

import itertools
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

STATISTICS = ("own", "average", "copy")


def copy_weights(source: keras.Layer, target: keras.Layer) -> None:
    """Makes the target an exact copy: parameters, batch norm's statistics and all other state.

    Args:
        source: a built network.
        target: a built network of the same architecture.

    Raises:
        ValueError: the networks do not have the same variables.
    """
    for here, there, _ in _pairs(source, target):
        there.assign(_value(here))


def update_ema(
    source: keras.Layer,
    target: keras.Layer,
    decay: float | tf.Tensor,
    *,
    statistics: str = "own",
) -> None:
    """Moves the target a little: ``target <- decay * target + (1 - decay) * source``.

    The averages are computed in the variables' dtype (float32), also inside of a network that
    computes in bfloat16. Call it on every replica, with equal networks; nothing is communicated.
    Whether it runs before the gradient step (MoCo) or after it (BYOL, DINO) is the caller's.

    Args:
        source: the network that is trained.
        target: its copy. With a decay of 1 it keeps, with 0 it takes the source's very bits.
        decay: what the target keeps, in [0, 1].
        statistics: what happens to variables that no optimizer trains (batch norm's moving mean
            and variance): ``own`` leaves the target's alone, ``average`` averages them like the
            rest, ``copy`` takes the source's. Integers are never averaged: ``average`` copies them.

    Raises:
        ValueError: the networks do not have the same variables, a number outside of [0, 1] or an
            unknown choice.
    """
    if statistics not in STATISTICS:
        raise ValueError(
            f"statistics must be one of {', '.join(STATISTICS)}. Received: {statistics!r}"
        )
    if isinstance(decay, int | float) and not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1]. Received: {decay}")
    for here, there, trained in _pairs(source, target):
        new = _value(here)
        if not trained and statistics == "own":
            continue
        if new.dtype.is_floating and (trained or statistics == "average"):
            keep = tf.cast(decay, new.dtype)
            new = keep * _value(there) + (1 - keep) * new
        there.assign(new)


def cosine_ema_decay(base: float, step: int | tf.Tensor, total_steps: int) -> tf.Tensor:
    """The decay that rises from ``base`` to 1 over training: ``1 - (1 - base)(1 + cos(pi t/T))/2``.

    As in BYOL, DINO and MoCo v3.

    Args:
        base: the decay of step 0.
        step: the training step, t.
        total_steps: the step at which the decay is 1, T; it stays 1 afterwards.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: ``base`` is outside of [0, 1], or there are no steps.
    """
    if not 0 <= base <= 1:
        raise ValueError(f"base must be in [0, 1]. Received: {base}")
    if total_steps < 1:
        raise ValueError(f"total_steps must be positive. Received: {total_steps}")
    progress = tf.minimum(tf.cast(step, tf.float32) / total_steps, 1.0)
    return 1.0 - (1.0 - base) * (1.0 + tf.cos(math.pi * progress)) / 2.0


def _value(variable: keras.Variable) -> tf.Tensor:
    """The value itself: Keras's own attribute may be cast to bfloat16 inside of a layer's call."""
    return tf.convert_to_tensor(variable._value)


def _pairs(
    source: keras.Layer, target: keras.Layer
) -> Iterator[tuple[keras.Variable, keras.Variable, bool]]:
    """(source's variable, target's variable, whether an optimizer trains such a one)."""
    ours, theirs = list(_variables(source)), list(_variables(target))
    described = [[f"{v.name} {tuple(v.shape)}" for v, _ in side] for side in (ours, theirs)]
    for first, second in itertools.zip_longest(*described, fillvalue="nothing"):
        if first != second:
            raise ValueError(
                "source and target must be built alike. Received: "
                f"{first} in the source where the target has {second}"
            )
    for (here, trained), (there, _) in zip(ours, theirs, strict=True):
        yield here, there, trained


def _variables(network: keras.Layer) -> Iterator[tuple[keras.Variable, bool]]:
    """All variables by layer, and whether they are parameters; a frozen parameter is one too."""
    for layer in network._flatten_layers():
        yield from ((variable, True) for variable in layer._trainable_variables)
        yield from ((variable, False) for variable in layer._non_trainable_variables)

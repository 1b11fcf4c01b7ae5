"""Gaussian blur with one width per image."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def kernel_size_for(image_size: int) -> int:
    """SimCLR's kernel for a side in pixels: a tenth of it, made odd (32 -> 3, 224 -> 23)."""
    return 2 * (image_size // 10 // 2) + 1


def gaussian_blur(
    images: tf.Tensor,
    sigmas: tf.Tensor,
    mask: tf.Tensor,
    kernel_size: int,
    *,
    padding: str = "zero",
    alone: bool = False,
) -> tf.Tensor:
    """Blurs the images that the mask names, each with its own width; separable.

    Args:
        images: [B, H, W, C] float.
        sigmas: [B], standard deviation in pixels; 0 leaves the image as it is.
        mask: [B] bool.
        kernel_size: odd number of taps per axis; the Gaussian is cut there and normalised.
        padding: what lies outside: "zero" (SimCLR: borders darken) or "reflect" (torchvision).
        alone: B is 1, and nothing is computed where the mask is False.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive. Received: {kernel_size}")
    if padding not in ("zero", "reflect"):
        raise ValueError(f"padding must be zero or reflect. Received: {padding!r}")
    radius = kernel_size // 2
    if radius == 0:
        return images
    shape = tf.shape(images)
    batch, height, width, channels = (
        shape[i] if images.shape[i] is None else images.shape[i] for i in range(4)
    )

    weights = _weights(tf.where(mask, tf.cast(sigmas, tf.float32), 0.0)[:, None], radius)
    mode = "CONSTANT" if padding == "zero" else "REFLECT"

    # Columns and channels are one axis here, to the end: long rows are what vectorised code wants.
    def across(lines: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(lines, [batch, height, width, channels])
        pixels = tf.pad(pixels, [[0, 0], [0, 0], [radius, radius], [0, 0]], mode)
        lines = tf.reshape(pixels, [batch, height, -1])
        return _blend_neighbours(lines, weights, axis=2, length=width * channels, step=channels)

    def down(lines: tf.Tensor) -> tf.Tensor:
        # Rows come last: XLA puts the padding into the pass before it, where whole rows differ in
        # what they need and not the values of one.
        lines = tf.pad(lines, [[0, 0], [radius, radius], [0, 0]], mode)
        return _blend_neighbours(lines, weights, axis=1, length=height, step=1)

    lines = tf.reshape(images, [batch, height, width * channels])
    # Each axis has a loop of its own: in one, XLA computes the padding between them value by value
    # (0.8 to 1.0 ms for 224 pixels in place of 0.6).
    for blur in (across, down):
        lines = _where_live(blur, lines, mask[0]) if alone else blur(lines)
    return tf.reshape(lines, shape)


def _where_live(
    change: Callable[[tf.Tensor], tf.Tensor], lines: tf.Tensor, live: tf.Tensor
) -> tf.Tensor:
    """The changed lines where the scalar is True; else the same ones, and nothing is computed.

    A loop of one turn or none: of a `cond` with branches like these XLA makes a select, which
    computes both.
    """
    turns = tf.cast(live, tf.int32)
    _, lines = tf.while_loop(
        lambda turn, _: turn < turns,
        lambda turn, lines: (turn + 1, change(lines)),
        (0, lines),
        maximum_iterations=1,
    )
    return lines


def _weights(sigmas: tf.Tensor, radius: int) -> tf.Tensor:
    """The right half of the normalised kernels, [B, radius + 1] for sigmas [B, 1]."""
    squares = tf.constant(np.arange(radius + 1, dtype=np.float32)[None] ** 2)
    variance = tf.where(sigmas > 0.0, sigmas * sigmas, 1.0)
    # Width 0 is the kernel (1, 0, ...): the sums then return the image bit for bit.
    weights = tf.where((sigmas > 0.0) | (squares == 0.0), tf.exp(-squares / (2.0 * variance)), 0.0)
    return weights / (2.0 * tf.reduce_sum(weights, axis=1, keepdims=True) - weights[:, :1])


def _blend_neighbours(
    lines: tf.Tensor, weights: tf.Tensor, *, axis: int, length: int | tf.Tensor, step: int
) -> tf.Tensor:
    """Shortens [B, rows, values] along an axis to `length`; neighbours lie `step` apart."""
    radius = weights.shape[1] - 1
    weights = weights[:, :, None, None]

    def shifted(offset: int) -> tf.Tensor:
        start = (radius + offset) * step
        return lines[:, start : start + length] if axis == 1 else lines[..., start : start + length]

    total = weights[:, 0] * shifted(0)
    for offset in range(1, radius + 1):
        total += weights[:, offset] * (shifted(-offset) + shifted(offset))
    return total

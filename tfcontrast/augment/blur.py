"""Gaussian blur with one width per image."""

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
) -> tf.Tensor:
    """Blurs the images that the mask names, each with its own width; separable.

    Args:
        images: [B, H, W, C] float.
        sigmas: [B], standard deviation in pixels; 0 leaves the image as it is.
        mask: [B] bool.
        kernel_size: odd number of taps per axis; the Gaussian is cut there and normalised.
        padding: what lies outside: "zero" (SimCLR: borders darken) or "reflect" (torchvision).
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive. Received: {kernel_size}")
    if padding not in ("zero", "reflect"):
        raise ValueError(f"padding must be zero or reflect. Received: {padding!r}")
    radius = kernel_size // 2
    if radius == 0:
        return images
    sigmas = tf.where(mask, tf.cast(sigmas, tf.float32), 0.0)[:, None]
    squares = tf.constant(np.arange(radius + 1, dtype=np.float32)[None] ** 2)
    variance = tf.where(sigmas > 0.0, sigmas * sigmas, 1.0)
    # Width 0 is the kernel (1, 0, ...): the sums below then return the image bit for bit.
    weights = tf.where((sigmas > 0.0) | (squares == 0.0), tf.exp(-squares / (2.0 * variance)), 0.0)
    weights /= 2.0 * tf.reduce_sum(weights, axis=1, keepdims=True) - weights[:, :1]
    mode = "CONSTANT" if padding == "zero" else "REFLECT"
    for axis in (1, 2):
        images = _blur_axis(images, weights, radius, axis, mode)
    return images


def _blur_axis(
    images: tf.Tensor, weights: tf.Tensor, radius: int, axis: int, mode: str
) -> tf.Tensor:
    shape = tf.shape(images)
    batch, height, width, channels = (
        shape[i] if images.shape[i] is None else images.shape[i] for i in range(4)
    )
    pads = [[radius, radius] if i == axis else [0, 0] for i in range(4)]
    # Columns and channels are one axis here: long rows are what vectorised code wants.
    lines = tf.reshape(
        tf.pad(images, pads, mode), [batch, -1, (width + 2 * radius * (axis - 1)) * channels]
    )
    weights = weights[:, :, None, None]

    def shifted(start: int) -> tf.Tensor:
        if axis == 1:
            return lines[:, start : start + height]
        return lines[:, :, start * channels : (start + width) * channels]

    total = weights[:, 0] * shifted(radius)
    for offset in range(1, radius + 1):
        total += weights[:, offset] * (shifted(radius - offset) + shifted(radius + offset))
    return tf.reshape(total, [batch, height, width, channels])

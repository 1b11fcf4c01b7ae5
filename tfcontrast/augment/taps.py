"""Crop and resize of one image by the few pixels that a new pixel is made of: for hosts.

`geometry.crop_and_resize` multiplies by matrices that are nearly all zeros, which is what an
accelerator and a batch want. On a core, picking the rows that count takes a fifth of that.
"""

import numpy as np
import tensorflow as tf

from tfcontrast.augment.geometry import RADIUS, interpolation_kernel


def taps(
    start: tf.Tensor, length: tf.Tensor, size: int, *, method: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which source pixels make each target pixel along one axis, and with which weight.

    The kernel is not widened: where length > size this is resizing without antialiasing.

    Args:
        start: [B] int32, first source pixel of the box.
        length: [B] int32, its source pixels.
        size: target pixels, S.
        method: "bicubic" (4 taps) or "bilinear" (2).

    Returns:
        Places [B, T, S] int32 inside the box, and weights [B, T, S], 0 where the tap lies outside.
        Weights sum to 1 only after division by their sum over the taps.
    """
    first = tf.cast(start, tf.float32)[:, None, None]
    length = tf.cast(length, tf.float32)[:, None, None]
    target = tf.constant(np.arange(size, dtype=np.float32) + 0.5)
    centre = first + target * (length / size) - 0.5
    radius = int(RADIUS[method])
    offsets = tf.constant(np.arange(1 - radius, radius + 1, dtype=np.float32)[:, None])
    place = tf.floor(centre) + offsets
    weight = interpolation_kernel(tf.abs(place - centre), method)
    last = first + length - 1.0
    weight = tf.where((place >= first) & (place <= last), weight, 0.0)
    return tf.cast(tf.clip_by_value(place, first, last), tf.int32), weight


def blend_rows(image: tf.Tensor, places: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Resamples a square image along both axes, to its own size.

    Both passes pick whole rows, which lie together in memory; between them the image is transposed.
    The division comes last and the rows are a result of their own so that XLA keeps them: fused
    with the transposition, every value would be fetched by itself (four times the time).

    Args:
        image: [S, 3, S], columns first: column, channel, row.
        places: [2, T, S] from `taps`, of the columns, then of the rows.
        weights: [2, T, S].

    Returns:
        [S, 3, S] float32: row, channel, column; in the input's range but for a kernel's overshoot.
    """
    size = image.shape[0]
    lines = tf.reshape(tf.cast(image, tf.float32), [size, 3 * size])

    def body(axis: tf.Tensor, lines: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        place, weight = places[axis], weights[axis]
        total = tf.reduce_sum(weight, axis=0)[:, None]
        taken = [
            tf.gather(lines, place[tap]) * weight[tap][:, None] for tap in range(place.shape[0])
        ]
        rows = tf.add_n(taken) / total
        turned = tf.transpose(tf.reshape(rows, [size, 3, size]), [2, 1, 0])
        return axis + 1, tf.reshape(turned, [size, 3 * size]), rows

    result = tf.while_loop(lambda axis, *_: axis < 2, body, (0, lines, lines), maximum_iterations=2)
    return tf.reshape(result[2], [size, 3, size])

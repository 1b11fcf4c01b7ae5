"""What removes information from an image: noise, erased patches, edges instead of colours."""

import tensorflow as tf

from tfcontrast.augment.color import LUMA
from tfcontrast.augment.random import normal


def gaussian_noise(
    images: tf.Tensor, stddevs: tf.Tensor, seeds: tf.Tensor, *, stream: int
) -> tf.Tensor:
    """Adds white noise to each image.

    Args:
        images: [B, H, W, C] float with static H, W and C.
        stddevs: [B], in units of the image's values.
        seeds: [B, 2] uint32.
        stream: the stream of random numbers to draw from.
    """
    count = images.shape[1] * images.shape[2] * images.shape[3]
    noise = tf.reshape(normal(seeds, count, stream=stream), tf.shape(images))
    return images + stddevs[:, None, None, None] * noise


def cutout(images: tf.Tensor, boxes: tf.Tensor, *, fill: float = 0.5) -> tf.Tensor:
    """Fills one box of each image with one value (DeVries and Taylor 2017).

    Args:
        images: [B, H, W, C] float.
        boxes: [B, 4] int32: y, x, height, width; what lies outside the image is ignored, an empty
            box erases nothing.
        fill: the value.
    """
    shape = tf.shape(images)
    rows, columns = tf.range(shape[1])[None], tf.range(shape[2])[None]
    y, x, height, width = (boxes[:, i : i + 1] for i in range(4))
    in_rows = (rows >= y) & (rows < y + height)
    in_columns = (columns >= x) & (columns < x + width)
    erased = in_rows[:, :, None] & in_columns[:, None, :]
    return tf.where(erased[..., None], tf.cast(fill, images.dtype), images)


def sobel_gradients(images: tf.Tensor) -> tf.Tensor:
    """Sobel's derivatives of the luma, down and to the right: [B, H, W, 2].

    Borders are mirrored about the edge, with the edge pixel repeated; a ramp of 1 per pixel has the
    derivative 1.
    """
    luma = tf.reduce_sum(images * tf.constant(LUMA, images.dtype), axis=-1)
    padded = tf.pad(luma, [[0, 0], [1, 1], [1, 1]], "SYMMETRIC")
    smooth_x = padded[:, :, :-2] + 2.0 * padded[:, :, 1:-1] + padded[:, :, 2:]
    smooth_y = padded[:, :-2] + 2.0 * padded[:, 1:-1] + padded[:, 2:]
    down = smooth_x[:, 2:] - smooth_x[:, :-2]
    right = smooth_y[:, :, 2:] - smooth_y[:, :, :-2]
    return tf.stack([down, right], axis=-1) / 8.0


def sobel(images: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Replaces the images that the [B] bool mask names by the strength of their edges.

    The strength is the root of the mean square of the two derivatives, scaled so that a full step
    has at most 1 (`skimage.filters.sobel`).
    """
    gradients = 2.0 * sobel_gradients(images)
    strength = tf.sqrt(tf.reduce_mean(gradients * gradients, axis=-1, keepdims=True))
    return tf.where(mask[:, None, None, None], strength, images)

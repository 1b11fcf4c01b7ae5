"""Random crop boxes of a batch: a fixed number of attempts at once, the first valid one counts."""

import math

import tensorflow as tf

ATTEMPTS = 10
DRAWS = 4 * ATTEMPTS  # ratio, size, y and x of every attempt


def height_law_boxes(
    unit: tf.Tensor,
    heights: tf.Tensor,
    widths: tf.Tensor,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    min_covered: float = 0.1,
) -> tf.Tensor:
    """Boxes by the rules of TensorFlow's `sample_distorted_bounding_box`, as SimCLR crops.

    An attempt draws the ratio width / height uniformly, then the height uniformly among those whose
    area is in range and whose box fits (so the area itself is not uniform), then the place. A box
    that covers less than `min_covered` is drawn again. TensorFlow makes up to 100 attempts before
    it keeps the whole image; here 10 are made, which differs only for strips longer than about 8:1,
    where even 100 attempts mostly fail.

    Args:
        unit: [B, DRAWS] uniform in [0, 1).
        heights: [B] int32, pixels.
        widths: [B] int32, pixels.
        area: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.
        min_covered: smallest share of the image's area after rounding.

    Returns:
        [B, 4] int32: y, x, height, width; the whole image when no attempt is valid.
    """
    draw_ratio, draw_size, draw_y, draw_x = tf.split(unit, 4, axis=1)
    image_height, image_width = _columns(heights), _columns(widths)
    pixels = image_height * image_width
    aspect = ratio[0] + (ratio[1] - ratio[0]) * draw_ratio
    low = tf.round(tf.sqrt(area[0] * pixels / aspect))
    high = tf.round(tf.sqrt(area[1] * pixels / aspect))
    widest = tf.floor((image_width + 0.5 - 1e-4) / aspect)
    high = tf.where(tf.round(high * aspect) > image_width, widest, high)
    high = tf.minimum(high, image_height)
    low = tf.minimum(low, high)
    height = low + tf.floor(draw_size * (high - low + 1.0))
    width = tf.round(height * aspect)
    # Rounding can leave the range by a row; one step back is tried, as TensorFlow does.
    height += tf.cast(height * width < area[0] * pixels, tf.float32)
    width = tf.round(height * aspect)
    height -= tf.cast(height * width > area[1] * pixels, tf.float32)
    width = tf.round(height * aspect)
    covered = height * width
    valid = (covered >= max(area[0], min_covered) * pixels) & (covered <= area[1] * pixels)
    valid &= (height <= image_height) & (width <= image_width) & (height >= 1) & (width >= 1)
    # TensorFlow's places exclude the last one; kept.
    y = tf.floor(draw_y * (image_height - height))
    x = tf.floor(draw_x * (image_width - width))
    whole = [tf.zeros_like(pixels), tf.zeros_like(pixels), image_height, image_width]
    return _first_valid((y, x, height, width), valid, whole)


def area_law_boxes(
    unit: tf.Tensor,
    heights: tf.Tensor,
    widths: tf.Tensor,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tf.Tensor:
    """Boxes by the rules of torchvision's `RandomResizedCrop`, as SupContrast crops.

    An attempt draws the area uniformly and the ratio uniformly in its logarithm. When none of 10
    attempts fits, the largest centred box with an allowed ratio is taken. Arguments and result as
    `height_law_boxes`.
    """
    draw_ratio, draw_size, draw_y, draw_x = tf.split(unit, 4, axis=1)
    image_height, image_width = _columns(heights), _columns(widths)
    lowest, highest = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(lowest + (highest - lowest) * draw_ratio)
    target = (area[0] + (area[1] - area[0]) * draw_size) * image_height * image_width
    width, height = tf.round(tf.sqrt(target * aspect)), tf.round(tf.sqrt(target / aspect))
    valid = (height <= image_height) & (width <= image_width) & (height >= 1) & (width >= 1)
    y = tf.floor(draw_y * (image_height - height + 1.0))
    x = tf.floor(draw_x * (image_width - width + 1.0))
    centre_width = tf.minimum(image_width, tf.maximum(1.0, tf.round(image_height * ratio[1])))
    centre_height = tf.minimum(image_height, tf.maximum(1.0, tf.round(image_width / ratio[0])))
    centre = [
        tf.floor((image_height - centre_height) / 2.0),
        tf.floor((image_width - centre_width) / 2.0),
        centre_height,
        centre_width,
    ]
    return _first_valid((y, x, height, width), valid, centre)


def _columns(sizes: tf.Tensor) -> tf.Tensor:
    return tf.cast(sizes, tf.float32)[:, None]


def _first_valid(
    attempts: tuple[tf.Tensor, ...], valid: tf.Tensor, fallback: list[tf.Tensor]
) -> tf.Tensor:
    """Takes each image's first valid attempt out of [B, ATTEMPTS], or its fallback [B, 1]."""
    valid = tf.cast(valid, tf.float32)
    earlier = tf.cumsum(valid, axis=1, exclusive=True)
    first = (valid > 0.0) & (earlier == 0.0)
    none = tf.reduce_sum(valid, axis=1) == 0.0
    parts = [
        tf.where(none, other[:, 0], tf.reduce_sum(tf.where(first, attempt, 0.0), axis=1))
        for attempt, other in zip(attempts, fallback, strict=True)
    ]
    return tf.cast(tf.stack(parts, axis=1), tf.int32)

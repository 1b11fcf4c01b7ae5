"""Colour operations with one amount per image. Nothing here clips; values lie in [0, 1].

Factors leave the image untouched at 1, shifts at 0, masks at False.
"""

import tensorflow as tf

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601; they sum to 1, so that grey stays grey

Planes = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def adjust_brightness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies each image [H, W, 3] of the batch by its factor (SimCLR v2, torchvision)."""
    return images * _per_image(factors)


def add_brightness(images: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """Adds each image's shift to its pixels (SimCLR v1, `tf.image.adjust_brightness`)."""
    return images + _per_image(deltas)


def adjust_contrast(images: tf.Tensor, factors: tf.Tensor, *, mean: str = "channel") -> tf.Tensor:
    """Scales the distance of each image's pixels from its mean.

    Args:
        images: [B, H, W, 3].
        factors: [B].
        mean: "channel", each channel about its own mean (TensorFlow), or "grey", all about the mean
            luma (torchvision).
    """
    if mean not in ("channel", "grey"):
        raise ValueError(f"mean must be channel or grey. Received: {mean!r}")
    centre = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    if mean == "grey":
        centre = _luma(centre)
    return _blend(images, centre, _per_image(factors))


def adjust_saturation(images: tf.Tensor, factors: tf.Tensor, *, mode: str = "hsv") -> tf.Tensor:
    """Scales the colourfulness of each image.

    Args:
        images: [B, H, W, 3], >= 0.
        factors: [B], >= 0.
        mode: "hsv", multiply the saturation of the hexcone model and stop at 1 (TensorFlow): the
            brightest channel stays; or "grey", move away from the pixel's luma (torchvision): the
            luma stays.
    """
    if mode not in ("hsv", "grey"):
        raise ValueError(f"mode must be hsv or grey. Received: {mode!r}")
    factors = _per_image(factors)
    if mode == "grey":
        return _blend(images, _luma(images), factors)
    return tf.stack(saturate_planes(_planes(images), factors[..., 0]), axis=-1)


def adjust_hue(images: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """Turns each image's hue by its share of the full circle, e.g. 0.5 makes red cyan.

    Args:
        images: [B, H, W, 3].
        deltas: [B], turns.
    """
    return tf.stack(shift_hue_planes(_planes(images), _per_image(deltas)[..., 0]), axis=-1)


def to_grayscale(images: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Replaces the images that the [B] bool mask names by their luma, in all three channels."""
    return tf.where(_per_image(mask), _luma(images), images)


def solarize(images: tf.Tensor, mask: tf.Tensor, *, threshold: float = 0.5) -> tf.Tensor:
    """Inverts the values from the threshold up, in the images that the [B] bool mask names."""
    return tf.where(_per_image(mask) & (images >= threshold), 1.0 - images, images)


def saturate_planes(planes: Planes, factors: tf.Tensor) -> Planes:
    """`adjust_saturation` ("hsv") on planes [B, H, W]; factors broadcast with them."""
    high, low = _extremes(planes)
    # The saturation (high - low) / high stops at 1, where the lowest channel reaches 0.
    limit = high / tf.where(high > low, high - low, 1.0)
    factors = tf.where(high > low, tf.minimum(factors, limit), 1.0)
    return tuple(_blend(plane, high, factors) for plane in planes)


def shift_hue_planes(planes: Planes, deltas: tf.Tensor) -> Planes:
    """`adjust_hue` on the red, green and blue planes [B, H, W]; deltas broadcast with them.

    In the hexcone model (Smith 1978) a hue shift keeps the largest and the smallest channel. With
    the hue h in sixths of a turn, channel n is ``high - chroma * clip(min(k, 4 - k), 0, 1)``, ``k =
    (h + n) mod 6``, n = 5, 3, 1 for red, green, blue: no branches.
    """
    red, green, blue = planes
    high, low = _extremes(planes)
    chroma = high - low
    inverse = 1.0 / tf.where(chroma > 0.0, chroma, 1.0)
    hue = tf.where(
        high == red,
        (green - blue) * inverse,
        tf.where(high == green, 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse),
    )
    hue += 6.0 * deltas
    turned = []
    for plane, offset in zip(planes, (5.0, 3.0, 1.0), strict=True):
        place = hue + offset
        place -= 6.0 * tf.floor(place * (1.0 / 6.0))
        share = tf.clip_by_value(tf.minimum(place, 4.0 - place), 0.0, 1.0)
        turned.append(tf.where(deltas == 0.0, plane, high - chroma * share))
    return tuple(turned)


def _extremes(planes: Planes) -> tuple[tf.Tensor, tf.Tensor]:
    red, green, blue = planes
    high = tf.maximum(red, tf.maximum(green, blue))
    return high, tf.minimum(red, tf.minimum(green, blue))


def _blend(images: tf.Tensor, reference: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """``reference`` at factor 0, exactly the image at 1, beyond it above 1."""
    return factors * images + (1.0 - factors) * reference


def _luma(images: tf.Tensor) -> tf.Tensor:
    red, green, blue = _planes(images)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[..., None]


def _planes(images: tf.Tensor) -> Planes:
    return images[..., 0], images[..., 1], images[..., 2]


def _per_image(amounts: tf.Tensor) -> tf.Tensor:
    return tf.convert_to_tensor(amounts)[:, None, None, None]

"""The one view that evaluation sees: no randomness, any input size."""

import tensorflow as tf

from tfcontrast.augment.geometry import crop_and_resize, resize, to_float

SMALL_IMAGE = 32  # sides up to this are not cropped: the object fills such pictures (CIFAR, digits)


def eval_view(images: tf.Tensor, *, image_size: int, crop_fraction: float = 0.875) -> tf.Tensor:
    """Makes images ready for evaluation, as SimCLR does.

    Above 32 pixels: the central square with `crop_fraction` of the shorter side, bicubic to the
    size. Up to 32 pixels: the whole image, resized when its size differs and untouched when it does
    not.

    Args:
        images: [B, H, W, 3], uint8 or float in [0, 1], of any size, also unknown.
        image_size: side of the result in pixels.
        crop_fraction: share of the shorter side that is kept.

    Returns:
        [B, image_size, image_size, 3] float32 in [0, 1].
    """
    if image_size < 1:
        raise ValueError(f"image_size must be positive. Received: {image_size}")
    if not 0.0 < crop_fraction <= 1.0:
        raise ValueError(f"crop_fraction must be in (0, 1]. Received: {crop_fraction}")
    images = tf.convert_to_tensor(images)
    if image_size <= SMALL_IMAGE:
        if images.shape[1] == images.shape[2] == image_size:
            return to_float(images)
        return tf.clip_by_value(resize(images, (image_size, image_size)), 0.0, 1.0)
    shape = tf.shape(images)
    shorter = tf.cast(tf.minimum(shape[1], shape[2]), tf.float32)
    side = tf.maximum(tf.cast(tf.round(crop_fraction * shorter), tf.int32), 1)
    box = tf.stack([(shape[1] - side + 1) // 2, (shape[2] - side + 1) // 2, side, side])
    boxes = tf.repeat(box[None], shape[0], axis=0)
    return tf.clip_by_value(crop_and_resize(images, boxes, image_size), 0.0, 1.0)

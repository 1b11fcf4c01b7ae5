"""Crop, flip, resize, rotate: sampling of a batch where every image has its own box or angle.

A crop that is resized is a product with two small matrices, one per axis. That compiles under XLA
(where TensorFlow's resize and crop_and_resize kernels do not), takes bicubic and antialiased
filters, and a flip costs nothing.
"""

import math

import numpy as np
import tensorflow as tf

RADIUS = {"bilinear": 1.0, "bicubic": 2.0}  # of the interpolation kernels, in pixels


def crop_and_resize(
    images: tf.Tensor,
    boxes: tf.Tensor,
    size: int,
    *,
    method: str = "bicubic",
    antialias: bool = False,
    flip: tf.Tensor | None = None,
) -> tf.Tensor:
    """Cuts one box out of each image and resizes it to a square.

    Pixel centres lie at half integers, taps outside the box are left out and the rest renormalised,
    as `tf.image.resize` does on the cut-out box. Bicubic is Keys' kernel with a = -0.5 (1981) and
    can overshoot the range of its input. A uint8 input is cut first and divided by 255 after.

    An image of unknown size, [1, None, None, 3], goes through `tf.image.resize` itself, whose
    bicubic table has 1024 places (differences up to 0.002).

    Args:
        images: [B, H, W, 3] float, or uint8.
        boxes: [B, 4] int32: y, x, height, width in pixels, inside the image and not empty.
        size: side of the result in pixels.
        method: "bicubic" or "bilinear".
        antialias: widen the kernel when shrinking, as Pillow and `tf.image.resize(antialias=True)`
            do; without it the kernel keeps its 2 or 4 taps.
        flip: [B] bool, mirror these images left to right.

    Returns:
        [B, size, size, 3] float32.
    """
    if method not in RADIUS:
        raise ValueError(f"method must be one of {', '.join(RADIUS)}. Received: {method!r}")
    return _sample(images, boxes, (size, size), method, antialias, flip)


def resize(
    images: tf.Tensor, size: tuple[int, int], *, method: str = "bicubic", antialias: bool = False
) -> tf.Tensor:
    """Resizes whole images to (height, width); see `crop_and_resize`."""
    if method not in RADIUS:
        raise ValueError(f"method must be one of {', '.join(RADIUS)}. Received: {method!r}")
    return _sample(images, whole_boxes(images), size, method, antialias, None)


def whole_boxes(images: tf.Tensor) -> tf.Tensor:
    """The boxes that keep every pixel: [B, 4] int32."""
    shape = tf.shape(images)
    zero = tf.zeros([shape[0]], tf.int32)
    return tf.stack([zero, zero, zero + shape[1], zero + shape[2]], axis=1)


def to_float(images: tf.Tensor) -> tf.Tensor:
    """uint8 images to float32 in [0, 1]; float images to float32."""
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) * (1.0 / 255.0)
    return tf.cast(images, tf.float32)


def flip_left_right(images: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mirrors the images that the [B] bool mask names."""
    return tf.where(mask[:, None, None, None], tf.reverse(images, [2]), images)


def rotate(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns each image counterclockwise about its centre; bilinear, zeros come in from outside.

    Args:
        images: [B, H, W, C] float.
        degrees: [B].
    """
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return warp_affine(images, tf.reshape(tf.stack([cos, sin, -sin, cos], axis=-1), [-1, 2, 2]))


def warp_affine(
    images: tf.Tensor, matrices: tf.Tensor, shifts: tf.Tensor | None = None
) -> tf.Tensor:
    """Resamples each image by a linear map about its centre; bilinear, zeros outside.

    The value at offset p from the centre comes from offset ``matrix @ p + shift``, with offsets (y,
    x) in pixels, y down.

    Args:
        images: [B, H, W, C] float.
        matrices: [B, 2, 2].
        shifts: [B, 2] in pixels; None for no shift.
    """
    batch, height, width, channels = (
        tf.shape(images)[i] if images.shape[i] is None else images.shape[i] for i in range(4)
    )
    middle = (tf.cast([height, width], tf.float32) - 1.0) / 2.0
    rows, columns = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
    grid = tf.cast(tf.reshape(tf.stack([rows, columns], -1), [1, -1, 2]), tf.float32)
    source = tf.reduce_sum((grid - middle)[:, :, None] * matrices[:, None], -1) + middle
    if shifts is not None:
        source += shifts[:, None]
    corner = tf.floor(source)
    part = source - corner
    corner = tf.cast(corner, tf.int32)
    pixels = tf.reshape(images, [batch, -1, channels])
    result: tf.Tensor = 0.0
    for down in (0, 1):
        for right in (0, 1):
            y, x = corner[..., 0] + down, corner[..., 1] + right
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            weight = (part[..., 0] if down else 1.0 - part[..., 0]) * (
                part[..., 1] if right else 1.0 - part[..., 1]
            )
            at = tf.clip_by_value(y, 0, height - 1) * width + tf.clip_by_value(x, 0, width - 1)
            result += tf.gather(pixels, at, batch_dims=1) * tf.where(inside, weight, 0.0)[..., None]
    return tf.reshape(result, [batch, height, width, channels])


def _sample(
    images: tf.Tensor,
    boxes: tf.Tensor,
    size: tuple[int, int],
    method: str,
    antialias: bool,
    flip: tf.Tensor | None,
) -> tf.Tensor:
    images, boxes = tf.convert_to_tensor(images), tf.convert_to_tensor(boxes)
    if images.shape[0] == 1 and None in images.shape[1:3]:
        return _sample_one(images, boxes[0], size, method, antialias, flip)
    images = to_float(images)
    shape = tf.shape(images)
    batch = shape[0] if images.shape[0] is None else images.shape[0]
    height = shape[1] if images.shape[1] is None else images.shape[1]
    width = shape[2] if images.shape[2] is None else images.shape[2]
    channels = images.shape[3]
    rows = _sampling_matrix(boxes[:, 0], boxes[:, 2], height, size[0], method, antialias)
    columns = _sampling_matrix(boxes[:, 1], boxes[:, 3], width, size[1], method, antialias)
    if flip is not None:
        columns = tf.where(flip[:, None, None], tf.reverse(columns, [1]), columns)
    tall = tf.matmul(rows, tf.reshape(images, [batch, height, width * channels]))
    planes = tf.transpose(tf.reshape(tall, [batch, size[0], width, channels]), [0, 3, 1, 2])
    planes = tf.reshape(planes, [batch, channels * size[0], width])
    result = tf.matmul(planes, columns, transpose_b=True)
    result = tf.reshape(result, [batch, channels, size[0], size[1]])
    return tf.transpose(result, [0, 2, 3, 1])


def cut_and_resize(
    image: tf.Tensor, box: tf.Tensor, size: tuple[int, int], *, method: str, antialias: bool
) -> tf.Tensor:
    """A box [4] of one image [1, h, w, 3] by TensorFlow's kernel; float32 in the input's range."""
    y, x, height, width = tf.unstack(box)
    cut = image[:, y : y + height, x : x + width]
    return tf.image.resize(cut, size, method, antialias=antialias)


def _sample_one(
    images: tf.Tensor,
    box: tf.Tensor,
    size: tuple[int, int],
    method: str,
    antialias: bool,
    flip: tf.Tensor | None,
) -> tf.Tensor:
    """One streamed image: cut first, so that the work follows the crop, then TensorFlow's kernel.

    The kernel takes a fifth of the matrices' time here (375 x 500 to 224), and reads bytes; it does
    not compile under XLA, where an image of unknown size has no place anyway.
    """
    resized = cut_and_resize(images, box, size, method=method, antialias=antialias)
    if images.dtype == tf.uint8:
        resized *= 1.0 / 255.0
    return resized if flip is None else flip_left_right(resized, flip)


def _sampling_matrix(
    start: tf.Tensor, length: tf.Tensor, source: tf.Tensor, size: int, method: str, antialias: bool
) -> tf.Tensor:
    """Weights [B, size, source] of source pixels in target pixels, along one axis."""
    start = tf.cast(start, tf.float32)[:, None, None]
    length = tf.cast(length, tf.float32)[:, None, None]
    scale = length / size
    target = tf.constant(np.arange(size, dtype=np.float32)[None, :, None] + 0.5)
    centre = start + target * scale
    pixel = tf.cast(tf.range(source), tf.float32)[None, None]
    distance = tf.abs(pixel + 0.5 - centre)
    if antialias:
        distance /= tf.maximum(scale, 1.0)
    inside = (pixel >= start) & (pixel < start + length)
    weight = tf.where(inside, interpolation_kernel(distance, method), 0.0)
    return weight / tf.reduce_sum(weight, axis=-1, keepdims=True)


def interpolation_kernel(distance: tf.Tensor, method: str) -> tf.Tensor:
    """The weight of a pixel at a distance >= 0 (in pixels): Keys' with a = -0.5, or a triangle."""
    d = tf.minimum(distance, RADIUS[method])
    if method == "bilinear":
        return 1.0 - d
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((2.5 - 0.5 * d) * d - 4.0) * d + 2.0
    return tf.where(d < 1.0, near, far)

"""Two views as simclr/tf2 makes them: one image at a time in tf.data, blur on the batch.

With a clone of google-research/simclr its own functions run; without one, the same steps re-stated
here from their description with TensorFlow's own ops.
"""

import importlib.util
import pathlib
import types
from collections.abc import Iterator

import tensorflow as tf

NAME = "simclr/tf2"
RESTATED = "simclr/tf2's way, re-stated"


def batches(
    images: tf.data.Dataset, *, size: int, batch_size: int, blur: bool, folder: str
) -> Iterator:
    """Batches of two views for ever.

    Args:
        images: uint8 images, one after the other, for ever.
        size: side of a view.
        batch_size: images.
        blur: whether the batch is blurred.
        folder: a clone of google-research/simclr; empty: re-stated.
    """
    if folder:
        own = _module(pathlib.Path(folder) / "tf2" / "data_util.py")

        def view(image: tf.Tensor) -> tf.Tensor:
            return own.preprocess_for_train(image, size, size)

        def finish(views: list[tf.Tensor]) -> list[tf.Tensor]:
            return own.batch_random_blur(views, size, size) if blur else views

    else:

        def view(image: tf.Tensor) -> tf.Tensor:
            return _view(image, size)

        def finish(views: list[tf.Tensor]) -> list[tf.Tensor]:
            return [_blur(each, size) for each in views] if blur else views

    def both(image: tf.Tensor) -> tf.Tensor:
        image = tf.image.convert_image_dtype(image, tf.float32)
        return tf.concat([view(image) for _ in range(2)], -1)

    dataset = images.map(both, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    # Its blur is part of the training step; here it follows the pipeline in a graph of its own.
    step = tf.function(lambda batch: finish(tf.split(batch, 2, -1)))
    for batch in dataset:
        views = step(batch)
        views[0][0, 0, 0, 0].numpy(), views[1][0, 0, 0, 0].numpy()
        yield views


def _module(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("simclr_data_util", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"--simclr_dir: no {path.name} in its tf2 folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Its strength is a flag of the run that it belongs to.
    flags = module.flags
    if "color_jitter_strength" not in flags.FLAGS:
        flags.DEFINE_float("color_jitter_strength", 1.0, "")
    flags.FLAGS(["benchmark"])
    return module


def _chance(share: float) -> tf.Tensor:
    return tf.random.uniform([]) < share


def _view(image: tf.Tensor, size: int) -> tf.Tensor:
    """Crop, flip, jitter in a random order, grey."""
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=100,
    )
    image = tf.slice(image, begin, extent)
    image = tf.image.resize(image[None], [size, size], "bicubic")[0]
    image = tf.ensure_shape(tf.image.random_flip_left_right(image), [size, size, 3])
    image = tf.cond(_chance(0.8), lambda: _jitter(image), lambda: image)
    grey = lambda: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))  # noqa: E731
    image = tf.cond(_chance(0.2), grey, lambda: image)
    return tf.clip_by_value(image, 0.0, 1.0)


def _jitter(image: tf.Tensor) -> tf.Tensor:
    ways = (
        lambda now: now * tf.random.uniform([], 0.2, 1.8),
        lambda now: tf.image.random_contrast(now, 0.2, 1.8),
        lambda now: tf.image.random_saturation(now, 0.2, 1.8),
        lambda now: tf.image.random_hue(now, 0.2),
    )
    order = tf.random.shuffle(tf.range(4))
    for place in range(4):
        now = image
        branches = [lambda way=way, now=now: way(now) for way in ways]
        image = tf.clip_by_value(tf.switch_case(order[place], branches), 0.0, 1.0)
    return image


def _blur(images: tf.Tensor, size: int) -> tf.Tensor:
    """One width for the batch; every other image takes it."""
    radius = size // 10 // 2
    taps = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.exp(-(taps**2) / (2.0 * tf.random.uniform([], 0.1, 2.0) ** 2))
    weights = tf.tile((weights / tf.reduce_sum(weights))[:, None], [1, 3])
    blurred = tf.nn.depthwise_conv2d(images, weights[None, :, :, None], [1, 1, 1, 1], "SAME")
    blurred = tf.nn.depthwise_conv2d(blurred, weights[:, None, :, None], [1, 1, 1, 1], "SAME")
    share = tf.cast(tf.random.uniform([tf.shape(images)[0], 1, 1, 1]) < 0.5, tf.float32)
    return tf.clip_by_value(share * blurred + (1.0 - share) * images, 0.0, 1.0)

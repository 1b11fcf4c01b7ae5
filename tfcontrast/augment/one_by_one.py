"""The views of a batch, one image after the other: for hosts.

A batch computes everything for all images and hides it where it did not happen. One image is only
changed as its draws say, and stays in the processor's cache meanwhile. What is small, the draws and
the crops' weights, is computed by the batch in any case. Compiled by XLA these functions use one
core; callers run several at once.
"""

from typing import Any

import tensorflow as tf

from tfcontrast.augment.taps import blend_rows, taps
from tfcontrast.augment.view_recipe import ViewRecipe
from tfcontrast.augment.views import (
    crop_draws,
    crop_view,
    distort,
    distort_draws,
    drawn_boxes,
    drawn_flips,
)


def make_each(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """`make_view` one image after the other, equal to rounding; meant to be compiled by XLA.

    Args:
        images: [B, H, W, 3], uint8 or float in [0, 1].
        seeds: [V * B, 2] uint32: of one view of every image, then of the next.
        recipe: what may happen.

    Returns:
        [V * B, S, S, 3] float32 in [0, 1], S the recipe's image_size.
    """
    size = recipe.image_size
    crop = _square_crops if images.shape[1:] == [size, size, 3] else _crops
    crop_one, crop_rows = crop(images, seeds, recipe)
    draws = distort_draws(seeds, recipe)

    def one(row: dict[str, Any]) -> tf.Tensor:
        return _distort_one(crop_one(row["image"], row["crop"]), row["draws"], recipe)

    image = tf.range(tf.shape(seeds)[0]) % tf.shape(images)[0]
    rows = {"image": image, "crop": crop_rows, "draws": draws}
    return tf.map_fn(one, rows, fn_output_signature=tf.float32)


def distort_each(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """`distort_view` one image after the other, equal to rounding; meant to be compiled by XLA.

    Args:
        images: [B, S, S, 3] float32 in [0, 1].
        seeds: [B, 2] uint32.
        recipe: what may happen.

    Returns:
        As `images`.
    """
    return tf.map_fn(
        lambda row: _distort_one(row[0], row[1], recipe),
        (images, distort_draws(seeds, recipe)),
        fn_output_signature=images.dtype,
    )


def _distort_one(image: tf.Tensor, draws: dict[str, tf.Tensor], recipe: ViewRecipe) -> tf.Tensor:
    draws = {name: value[None] for name, value in draws.items()}
    return distort(image[None], draws, recipe, alone=True)[0]


def _square_crops(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> Any:
    """`crop_view` of images which have the views' size: a crop is never shrunk."""
    size = recipe.image_size
    draws = crop_draws(seeds)
    boxes = drawn_boxes(draws, size, size, recipe)
    rows, columns = (
        taps(boxes[:, axis], boxes[:, axis + 2], size, method=recipe.resize_method)
        for axis in (0, 1)
    )
    if recipe.flip_probability:
        mirrored = drawn_flips(draws, recipe)[:, None, None]
        columns = tuple(tf.where(mirrored, tf.reverse(part, [2]), part) for part in columns)
    places, weights = (tf.stack(pair, axis=1) for pair in zip(columns, rows, strict=True))
    turned = tf.transpose(images, [0, 2, 3, 1])  # once for all views
    scale = 1.0 / 255.0 if images.dtype == tf.uint8 else 1.0

    def crop_one(image: tf.Tensor, row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        planes = tf.clip_by_value(blend_rows(turned[image], *row) * scale, 0.0, 1.0)
        return tf.transpose(planes, [0, 2, 1])

    return crop_one, (places, weights)


def _crops(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> Any:
    """`crop_view` of images of any other size."""

    def crop_one(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return crop_view(images[image][None], seed[None], recipe)[0]

    return crop_one, seeds

"""The views of a batch, one image after the other: for hosts.

A batch computes everything for all images and hides it where it did not happen. One image is only
changed as its draws say, and stays in the processor's cache meanwhile. Compiled by XLA these
functions use one core; callers run several at once.
"""

import tensorflow as tf

from tfcontrast.augment.view_recipe import ViewRecipe
from tfcontrast.augment.views import crop_view, distort_view


def make_each(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """`make_view` one image after the other, equal to rounding; meant to be compiled by XLA.

    Args:
        images: [B, H, W, 3], uint8 or float in [0, 1].
        seeds: [B, 2] uint32.
        recipe: what may happen.

    Returns:
        [B, S, S, 3] float32 in [0, 1], S the recipe's image_size.
    """

    def one(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, seed = pair[0][None], pair[1][None]
        return distort_view(crop_view(image, seed, recipe), seed, recipe, alone=True)[0]

    return tf.map_fn(one, (images, seeds), fn_output_signature=tf.float32)


def distort_each(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """`distort_view` one image after the other, equal to rounding; meant to be compiled by XLA.

    Args:
        images: [B, S, S, 3] float32 in [0, 1].
        seeds: [B, 2] uint32.
        recipe: what may happen.

    Returns:
        As `images`.
    """

    def one(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return distort_view(pair[0][None], pair[1][None], recipe, alone=True)[0]

    return tf.map_fn(one, (images, seeds), fn_output_signature=images.dtype)

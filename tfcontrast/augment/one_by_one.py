"""The views of a batch, one image after the other: for hosts and large images."""

import tensorflow as tf

from tfcontrast.augment.view_recipe import ViewRecipe
from tfcontrast.augment.views import distort_view


def distort_each(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """`distort_view` one image after the other, equal to rounding; meant to be compiled by XLA.

    A batch computes everything for all images and hides it where it did not happen. One image is
    only changed as its draws say, and stays in the processor's cache meanwhile. It uses one core;
    callers run several at once.

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

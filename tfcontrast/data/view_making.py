"""The part of the views that is computed by the batch: on the host, or within the training step."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfcontrast.augment import (
    ViewRecipe,
    crop_draws,
    distort_each,
    distort_view,
    example_seeds,
    finish_crop,
    make_each,
    make_view,
)
from tfcontrast.data.host import as_written
from tfcontrast.data.source import Source


def view_maker(
    source: Source,
    recipes: Sequence[ViewRecipe],
    *,
    seed: int,
    jit_compile: bool = True,
    host: bool = True,
) -> Callable[..., Any]:
    """The batched part of the views, traced and compiled with its first batch.

    Args:
        source: where the images come from.
        recipes: one recipe for each view.
        seed: the run's seed.
        jit_compile: compile it with XLA.
        host: it runs on a processor's cores: one image after the other when it is compiled.
            Otherwise all at once. The views are equal to rounding.

    Returns:
        A function for `train_dataset`'s `views`: of a batch's "images" (uint8 [B, H, W, 3], or
        crops, float32 [B, S, S, 3] of 0 to 255, one for each recipe) and "counter", int64 [B]. It
        gives a tuple of float32 [B, S, S, 3] in [0, 1].
    """
    make = _of_crops if source.image_shape is None else _of_images
    # Without XLA a loop over images costs more than it saves.
    return make(tuple(recipes), seed, jit_compile, each=jit_compile and host)


def _of_images(recipes: tuple[ViewRecipe, ...], seed: int, jit_compile: bool, each: bool) -> Any:
    def tiled(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
        copies = tf.shape(seeds)[0] // tf.shape(images)[0]
        return make_view(tf.tile(images, [copies, 1, 1, 1]), seeds, recipe)

    make = make_each if each else tiled
    # Views of one recipe are made as one batch: traced and compiled once.
    groups: dict[ViewRecipe, list[int]] = {}
    for view, recipe in enumerate(recipes):
        groups.setdefault(recipe, []).append(view)

    @tf.function(jit_compile=jit_compile)
    @as_written
    def make_groups(images: tf.Tensor, counters: tf.Tensor) -> list[tf.Tensor]:
        made = []
        for recipe, numbers in groups.items():
            seeds = tf.concat([example_seeds(seed, counters, view) for view in numbers], axis=0)
            made.append(make(images, seeds, recipe))
        return made

    @tf.function
    @as_written
    def make_views(images: tf.Tensor, counters: tf.Tensor) -> tuple[tf.Tensor, ...]:
        views: dict[int, tf.Tensor] = {}
        for numbers, made in zip(groups.values(), make_groups(images, counters), strict=True):
            # Here and not in the compiled code, which would copy what TensorFlow only points into.
            views |= zip(numbers, tf.split(made, len(numbers)), strict=True)
        return tuple(views[view] for view in range(len(recipes)))

    return make_views


def _of_crops(recipes: tuple[ViewRecipe, ...], seed: int, jit_compile: bool, each: bool) -> Any:
    distort = distort_each if each else distort_view

    # Views of one recipe are not made together here: at 224 pixels joining and parting them costs
    # more than a second compilation.
    @tf.function(jit_compile=jit_compile)
    @as_written
    def distort_crops(crops: tuple[tf.Tensor, ...], counters: tf.Tensor) -> tuple[tf.Tensor, ...]:
        views = []
        for view, (batch, recipe) in enumerate(zip(crops, recipes, strict=True)):
            seeds = example_seeds(seed, counters, view)
            views.append(distort(finish_crop(batch, crop_draws(seeds), recipe), seeds, recipe))
        return tuple(views)

    return distort_crops
